#!/usr/bin/env bash
# Builds one fuzzer for each target of tests/fuzz, with its corpus.
set -euo pipefail
cd "$SRC/receiver"
pip3 install --require-hashes -r requirements.txt
for target in $(python3 -c 'from tests.fuzz.targets import TARGETS; print(*TARGETS)'); do
  fuzzer="${target}_fuzzer"
  # In the project's folder, from which PyInstaller finds the modules.
  printf 'import sys\n\nfrom tests.fuzz.atheris_engine import fuzz\n\nfuzz("%s", sys.argv[1:])\n' "$target" > "$fuzzer.py"
  compile_python_fuzzer "$fuzzer.py"
  zip --quiet --junk-paths "$OUT/${fuzzer}_seed_corpus.zip" "tests/fuzz/corpus/$target"/*
done
