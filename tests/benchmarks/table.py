"""A table in Markdown, row by row."""


def print_row(cells: list[str], *, is_head: bool = False) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)
    if is_head:
        print(f"| {' | '.join('---' for _ in cells)} |", flush=True)
