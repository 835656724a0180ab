#!/usr/bin/env bash
# Unpacks an ARM64 Debian's Python with the runtime's wheels, and an emulator to run it: what `make test-arm64` needs.
#
#   tests/arm64/unpack.sh FOLDER HOST_PYTHON ONNXRUNTIME
#
# FOLDER/root/usr/bin/python-arm64 is then a Python like any other, and what it starts as sys.executable is emulated too.
# Nothing is installed and no right is needed: packages come from the archive that apt-get uses here, wheels from pip's
# index. ONNXRUNTIME is the version of onnxruntime; the other versions are those of constraints.txt.
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1") host_python=$(realpath -s "$2") onnxruntime=$3
repository=$(realpath "$(dirname "$0")/../..")

for tool in apt-get dpkg dpkg-deb; do
  command -v "$tool" >/dev/null || {
    echo "test-arm64: expected a Debian machine, but there is no $tool; on ARM64 itself run pytest tests/runtime" >&2
    exit 1
  }
done

# Downloads packages of an architecture, with all they depend on, and unpacks them, beside the machine's own packages.
unpack() { # FOLDER ARCHITECTURE PACKAGE..
  local to=$1 architecture=$2 state=$folder/apt-$2
  shift 2
  mkdir -p "$to" "$state"/{state/lists,cache/archives}/partial
  : >"$state/installed"
  cat >"$state/conf" <<EOF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Sandbox::User "";
Dir::State "$state/state";
Dir::State::status "$state/installed";
Dir::Cache "$state/cache";
EOF
  APT_CONFIG=$state/conf apt-get update -qq
  APT_CONFIG=$state/conf apt-get install -qq -y --no-install-recommends --download-only "$@"
  for package in "$state"/cache/archives/*.deb; do dpkg-deb -x "$package" "$to"; done
  rm -r "$state"
}

rm -rf "$folder/root" "$folder/site" "$folder/emulator" "$folder/import"
unpack "$folder/root" arm64 python3 libgomp1 libstdc++6
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || {
  unpack "$folder/unpacked" "$(dpkg --print-architecture)" qemu-user-static
  mkdir "$folder/emulator"
  find "$folder/unpacked/usr/bin" -regex ".*/qemu-aarch64\(-static\)?" -exec cp -L {} "$folder/emulator" \;
  rm -r "$folder/unpacked"
  qemu=$(find "$folder/emulator" -name qemu-aarch64-static -o -name qemu-aarch64 | sort | tail -1)
}

# Of Linux's files, what is in the tree is read before what is on the machine. onnxruntime from 1.28 on, asked about
# its processor, finds an x86 one in /proc and dies of a segmentation fault; here it finds the one that is emulated.
mkdir -p "$folder/root/proc"
for ((number = 0; number < $(getconf _NPROCESSORS_CONF); number++)); do
  printf '%s\t: %s\n' processor $number BogoMIPS 50.00 \
    Features 'fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp' \
    'CPU implementer' 0x41 'CPU architecture' 8 'CPU variant' 0x4 'CPU part' 0xd0b 'CPU revision' 1
  echo
done >"$folder/root/proc/cpuinfo"

# A Cortex-A76 has what the boards in question have: FP16 arithmetic and dot products, neither BF16 nor SVE.
python=$(basename "$(readlink -f "$folder/root/usr/bin/python3")")
cat >"$folder/root/usr/bin/python-arm64" <<EOF
#!/bin/sh
export QEMU_CPU="\${QEMU_CPU:-cortex-a76}" PYTHONPATH="$folder/import:$folder/site"
exec "$qemu" -L "$folder/root" -0 "\$0" "$folder/root/usr/bin/$python" "\$@"
EOF
chmod +x "$folder/root/usr/bin/python-arm64"

mkdir "$folder/import"
ln -s "$repository" "$folder/import/ebm_export"
libc=$(find "$folder/root" -name 'libc.so.6' | head -1)
newest=$(grep -ao 'GNU C Library .* version 2\.[0-9]*' "$libc" | grep -o '[0-9]*$')
platforms=(--platform manylinux2014_aarch64)
for ((minor = newest; minor >= 17; minor--)); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
sed '/^onnxruntime==/d' "$repository/constraints.txt" >"$folder/constraints.txt"
"$host_python" -m pip install --quiet --disable-pip-version-check --target "$folder/site" \
  --only-binary=:all: --implementation cp --python-version "${python#python}" "${platforms[@]}" \
  --constraint "$folder/constraints.txt" \
  "onnxruntime==$onnxruntime" numpy openvino typer rich onnx pytest pytest-timeout pytest-xdist

"$folder/root/usr/bin/python-arm64" -c "
import onnxruntime, openvino, platform, sys
print(f'{platform.machine()}: Python {sys.version.split()[0]}, onnxruntime {onnxruntime.__version__}')"
