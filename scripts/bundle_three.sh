#!/bin/sh
# Makes src/elinvar/vision/data/three.min.js: three.js, tree-shaken and minified, as one classic script that sets
# window.elinvarThree. Needs node, npm and its registry; nobody who only uses elinvar has to run it.
set -eu
THREE=0.187.0
ESBUILD=0.28.2
here=$(cd "$(dirname "$0")" && pwd)
out="$here/../src/elinvar/vision/data/three.min.js"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm install --prefix "$work" --ignore-scripts --no-audit --no-fund --silent "three@$THREE" "esbuild@$ESBUILD"
cp "$here/three_entry.js" "$work/entry.js"
cd "$work"
node_modules/.bin/esbuild entry.js --bundle --minify --format=iife --global-name=three --target=es2020 --charset=ascii \
  --legal-comments=none --log-level=warning --outfile=three.js
{
  printf '/*!\nthree.js %s (three, OrbitControls), bundled by scripts/bundle_three.sh.\n\n' "$THREE"
  cat node_modules/three/LICENSE
  # A page that holds two viewers runs this once.
  printf '*/\nif (!window.elinvarThree) window.elinvarThree = (function () {\n'
  cat three.js
  printf 'return three;\n})();\n'
} > "$out"
wc -c "$out"
