#!/usr/bin/env bash
# Proves that an aarch64 device and an x86-64 server understand each other to the byte.
#
#   tests/aarch64/run.sh [BUNDLE…]        default: edge edge-structure paper
#
# A Debian 12 for arm64 is unpacked into a temporary folder, the wheel of this checkout and wheels
# for aarch64 go into it (constraints.txt beside this file), and qemu-user runs its Python. Both
# machines make vectors and check the other's (vectors.py). About 15 minutes and 1 GB of disk.
#
# Needs root (debootstrap, chroot), qemu-user-static, debootstrap, and the registries that apt and
# pip are set up for. Environment:
#   PYTHON               this machine's Python, with dsin and onnxruntime (default: python3)
#   DSIN_AARCH64_KITTI   a KITTI raw drive, for a piece of a real frame beside the built-in rig
#   DSIN_AARCH64_ROOT    keep the unpacked system here and use it again
#   DSIN_AARCH64_MIRROR  a Debian mirror (default: debootstrap's)
#
# Exit status: 0 proven, 77 skipped (something is missing here; the reason is on stderr), else failed.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
bundles=("$@")
[ $# -gt 0 ] || bundles=(edge edge-structure paper)

skip() {
    echo "skipped: $1" >&2
    exit 77
}

[ "$(uname -m)" = x86_64 ] || skip "this is $(uname -m), not x86_64"
[ "$(id -u)" = 0 ] || skip "debootstrap and chroot need root"
for tool in debootstrap dpkg-deb unshare chroot; do
    command -v "$tool" >/dev/null || skip "$tool is not installed: apt-get install debootstrap"
done
qemu=$(command -v qemu-aarch64-static) ||
    skip "qemu-aarch64-static is not installed: apt-get install qemu-user-static"
unshare --mount true 2>/dev/null || skip "no right to mount here"
"$python" -c 'import dsin.runtime, onnxruntime, numba' 2>/dev/null ||
    skip "$python has no dsin with onnxruntime: pip install '.[cpu]', or name another in PYTHON"

work=$(mktemp -d "${TMPDIR:-/tmp}/dsin-aarch64.XXXXXX")
# Mounts live in namespaces of their own (below) and are gone before this.
trap 'rm -rf --one-file-system "$work"' EXIT
root=${DSIN_AARCH64_ROOT:-$work/root}

unpack_system() {
    [ -e "$root/unpacked" ] && return
    echo "unpacking Debian 12 for arm64"
    debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 \
        bookworm "$root" ${DSIN_AARCH64_MIRROR:+"$DSIN_AARCH64_MIRROR"} >"$work/debootstrap.log" 2>&1 ||
        { tail -n 5 "$work/debootstrap.log" >&2; exit 1; }
    # Unpacked is enough: nothing that runs here needs the packages configured.
    for package in "$root"/var/cache/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$root"
    done
    rm "$root"/var/cache/apt/archives/*.deb
    touch "$root/unpacked"
}

install_dsin() {
    echo "installing this checkout and its wheels for aarch64"
    # Built from a copy, so that the checkout stays as it is.
    mkdir "$work/source"
    (cd "$checkout" && cp -r pyproject.toml README.md LICENSE calibration export runtime training "$work/source")
    "$python" -m pip wheel -qq --no-deps --wheel-dir "$work/wheel" "$work/source"
    local platforms=() version
    for version in manylinux2014 manylinux_2_17 manylinux_2_24 manylinux_2_26 manylinux_2_27 manylinux_2_28; do
        platforms+=(--platform "${version}_aarch64")
    done
    rm -rf "$root/opt/dsin" && mkdir -p "$root/opt/dsin" "$root/opt/cache"
    "$python" -m pip install -qq --target "$root/opt/dsin" --only-binary=:all: \
        --implementation cp --python-version 3.11 "${platforms[@]}" \
        --constraint "$here/constraints.txt" "$(echo "$work"/wheel/dsin-*.whl)[cpu]"
    cp "$here/vectors.py" "$root/opt/vectors.py"
    cp "$qemu" "$root/usr/bin/qemu-aarch64-static"
}

# Runs Python on the emulated machine. onnxruntime ends the process where it finds no /sys.
on_device() {
    unshare --mount bash -euc '
        root=$1 && shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount --rbind /sys "$root/sys"
        mkdir -p "$root/vectors" && mount --bind "$VECTORS" "$root/vectors"
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
            PYTHONPATH=/opt/dsin NUMBA_CACHE_DIR=/opt/cache NUMBA_NUM_THREADS=1 \
            chroot "$root" /usr/bin/qemu-aarch64-static /usr/bin/python3.11 "$@"
    ' on_device "$root" "$@"
}

unpack_system
install_dsin

export VECTORS=$work/vectors
mkdir -p "$VECTORS/server" "$VECTORS/device"
"$python" "$here/vectors.py" frames "$VECTORS/frames.npz" \
    ${DSIN_AARCH64_KITTI:+--kitti "$DSIN_AARCH64_KITTI"}
on_device -c '
import importlib, pkgutil, dsin.runtime
for module in pkgutil.walk_packages(dsin.runtime.__path__, "dsin.runtime."):
    importlib.import_module(module.name)
print("every module of the runtime imports")'
on_device -m dsin.runtime.commands.cli info edge | sed -n 1,3p
"$python" "$here/vectors.py" make "$VECTORS/server" "$VECTORS/frames.npz" "${bundles[@]}"
on_device /opt/vectors.py make /vectors/device /vectors/frames.npz "${bundles[@]}"

failed=0
echo "the device's packets on this machine:"
"$python" "$here/vectors.py" check "$VECTORS/device" "${bundles[@]}" || failed=1
echo "this machine's packets on the device:"
on_device /opt/vectors.py check /vectors/server "${bundles[@]}" || failed=1
[ "$failed" = 0 ] || { echo "the machines differ" >&2; exit 1; }
echo "the machines agree"
