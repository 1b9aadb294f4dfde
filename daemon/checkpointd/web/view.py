"""How curves are drawn: which axis, how much smoothing, which scale. It is part of a page's address. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

SMOOTHING: Final = {"none": 0.0, "light": 0.02, "strong": 0.1}
"""Half the width of the moving average, as a share of the curve's length."""

_CHOICES: Final = {"axis": ("step", "epoch", "time"), "smoothing": tuple(SMOOTHING), "scale": ("linear", "log")}


class View(NamedTuple):
    """How curves are drawn. The defaults are the first choices."""

    axis: str = "step"
    smoothing: str = "none"
    scale: str = "linear"

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "View":
        """Return the view that a query string names. What it does not know is the default."""
        named = {name: query.get(name, "") for name in _CHOICES}
        return cls(**{name: value for name, value in named.items() if value in _CHOICES[name]})

    def parameters(self) -> dict[str, str]:
        """Return the view as parameters of a query string, without the defaults."""
        return {name: value for name, value in self._asdict().items() if value != _CHOICES[name][0]}

    def choices(self) -> Iterator[tuple[str, list[tuple[str, "View"]]]]:
        """Yield the name of each option, and its values with the view that each leads to."""
        for name, values in _CHOICES.items():
            yield name, [(value, self._replace(**{name: value})) for value in values]
