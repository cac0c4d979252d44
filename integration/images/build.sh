#!/bin/bash
# Builds the images that tests, demo and benchmarks run, from Debian packages: there may be no registry to pull from.
#
#   build.sh [NAME]...     default: all. Writes _out/images/NAME.tar, an OCI layout for `ctr image import`
#
# All share one base layer, Debian's essential packages. An image is a directory here:
#
#   NAME/packages      what apt installs on top, one package a line
#   NAME/root/         files put in as they are
#   NAME/config.json   the OCI image config: command, environment, port
#
# Packages are downloaded once, to _out/cache. An image is rebuilt only when its directory or the builder has changed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# In namespaces of its own nothing outlives the build: no mount, no daemon that a package started.
[[ ${SPROUT_IMAGES_UNSHARED:-} ]] ||
	SPROUT_IMAGES_UNSHARED=1 exec unshare --mount --pid --fork --kill-child "$here/build.sh" "$@"
. "$here/../tools/common.sh"

suite=bookworm
images=$OUT/images
work=$cache/images
base=$work/base # root file system of the base layer, the lower directory of every other
apt=$cache/apt-$suite
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

# apt_get runs this machine's apt, with its proxies and credentials, on the root file system in $1.
apt_get() {
	local rootfs=$1
	shift
	apt-get -c "$apt/apt.conf" -q -y \
		-o Dir::State::Status="$rootfs/var/lib/dpkg/status" \
		-o Dir::Cache::Archives="$rootfs/var/cache/apt/archives" \
		-o DPkg::Chroot-Directory="$rootfs" "$@"
}

# enter mounts into a root file system what package scripts expect of a machine.
enter() {
	mkdir -p "$1"/{proc,sys,dev,var/cache/apt/archives}
	mount -t proc proc "$1/proc"
	mount --bind /dev "$1/dev"
	mount --bind "$apt/archives" "$1/var/cache/apt/archives"
}

leave() { umount "$1"/{proc,dev,var/cache/apt/archives}; }

# tidy removes what a container never reads and what differs from build to build.
tidy() {
	find "$1"/var/log "$1"/tmp -type f -delete
	find "$1"/usr/share/{doc,info,man,lintian} ! -type d -delete
	rm -rf "$1"/var/{cache/ldconfig/aux-cache,cache/debconf/*-old,lib/dpkg/*-old,cache/man}
}

update_lists() {
	private_apt "$apt" "$suite"
	fetch "Debian $suite package lists" "$apt_advice" apt-get -c "$apt/apt.conf" update
}

# build_base does what debootstrap does, in a sixth of its time: unpack all, then let dpkg install the same packages.
build_base() {
	local deb
	rm -rf "$base" && mkdir -p "$base"/{usr/{bin,sbin,lib,lib64},var/lib/dpkg,etc/dpkg/dpkg.cfg.d}
	for deb in bin sbin lib lib64; do ln -s "usr/$deb" "$base/$deb"; done
	printf 'path-exclude /usr/share/%s/*\n' doc info locale lintian >"$base/etc/dpkg/dpkg.cfg.d/slim"
	: >"$base/var/lib/dpkg/status"
	enter "$base"
	fetch "Debian's essential packages" "$apt_advice" \
		apt_get "$base" -o pkgCacheGen::ForceEssential=, --download-only install '?essential' usr-is-merged
	apt_get "$base" -o pkgCacheGen::ForceEssential=, --print-uris --no-download install '?essential' usr-is-merged
	for deb in "$apt"/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -C "$base" -x --keep-directory-symlink
	done
	chroot "$base" sh -c 'dpkg --force-depends --force-unsafe-io --install /var/cache/apt/archives/*.deb'
	leave "$base"
	tidy "$base"
}
