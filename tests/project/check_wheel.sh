#!/bin/sh
# Builds the wheel into dist/, installs it with what the lock names into an environment of its own, and runs it from elsewhere.
set -eu
uv=$1
here=$(pwd)
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
grep -vE '^(#|$)' requirements.lock > "$elsewhere/lock"
rm -f dist/checkpointd-*.whl
$uv build --quiet --wheel --no-build-isolation --python .venv/bin/python --out-dir dist .
$uv venv --quiet --python .venv/bin/python "$elsewhere/venv"
$uv pip install --quiet --python "$elsewhere/venv" --constraint "$elsewhere/lock" "$(echo dist/checkpointd-*.whl)[embedded]"
cd "$elsewhere"
version=$(env -i PATH="$PATH" HOME="$elsewhere" venv/bin/checkpointd --version)
grep -q "\"$version\"" "$here/daemon/checkpointd/__init__.py"
env -i PATH="$PATH" HOME="$elsewhere" venv/bin/checkpointd demo > demo.txt &
demo=$!
trap 'kill "$demo" 2> /dev/null || true; rm -rf "$elsewhere"' EXIT
venv/bin/python - <<'END'
import pathlib, re, time, urllib.request
pages, deadline = [""], time.monotonic() + 120
while "train loss" not in (said := pathlib.Path("demo.txt").read_text()) or "Fine-tuning jobs" not in pages[0]:
    assert time.monotonic() < deadline, f"the installed wheel serves no status page:\n{said}"
    time.sleep(0.1)
    try:
        site = re.search("curves: (.*)", said)[1]
        pages = [urllib.request.urlopen(site + path).read().decode() for path in ("", "static/style.css", "static/script.js")]
    except (OSError, TypeError):
        pages = [""]
END
kill "$demo"
wait "$demo"
tail -n 1 demo.txt | grep -qE '^[1-9][0-9]* jobs, [1-9][0-9]* checkpoints, [1-9][0-9]* changes$'
echo "the wheel works: $version, $(tail -n 1 demo.txt)"
