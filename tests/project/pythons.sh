#!/bin/sh
# Prints the path of each installed Python of a version such as 3.11, once: those on the PATH, /usr/bin/python3 and pyenv's.
# One version may be installed more than once: distributions patch theirs.
version=$1
ask="import os, sys; '%d.%d' % sys.version_info[:2] == '$version' and print(os.path.realpath(sys.executable))"
{
  echo /usr/bin/python3
  echo "$PATH" | tr ':' '\n' | sed "s|\$|/python$version|"
  ls -d "$HOME/.pyenv/versions/$version".*/bin/python
} 2>/dev/null | while read -r python; do "$python" -c "$ask"; done 2>/dev/null | sort -u
