#!/bin/bash
# Builds the images that tests, demo and benchmarks run, from Debian packages: there may be no registry to pull from.
#
#   build.sh [NAME]...     default: all. Writes _out/images/NAME.tar, an OCI layout for `ctr image import`
#
# All share one base layer, Debian's essential packages. An image is a directory here:
#
#   NAME/packages      what apt installs on top of it, one package a line
#   NAME/root/         files put in as they are
#   NAME/config.json   the OCI image config: command, environment, port
#
# Package lists and packages are kept in _out/cache, so a rebuild needs no network. An image is rebuilt only when its
# directory or the builder has changed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

. "$here/../tools/fetch.sh"
need_root

# In namespaces of its own nothing outlives the build: no mount, no daemon that a package started.
[[ ${SPROUT_BUILD_UNSHARED:-} ]] ||
	SPROUT_BUILD_UNSHARED=1 exec unshare --mount --pid --fork --kill-child "$here/build.sh" "$@"

suite=bookworm
images=$OUT/images
work=$cache/images
base=$work/base # root file system of the base layer, lower directory of all others
apt=$cache/apt-$suite
umask 022
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

update_lists() {
	rm -rf "$apt"
	private_apt "$apt" "$suite"
	fetch "Debian $suite package lists" "$apt_advice" apt-get -c "$apt/apt.conf" update --error-on=any
}

# enter mounts what package scripts expect of a machine, and a directory of package files; leave undoes it.
enter() {
	mkdir -p "$1"/{proc,dev,var/cache/apt/archives} "$2/partial"
	mount -t proc proc "$1/proc"
	mount --rbind /dev "$1/dev"
	mount --bind "$2" "$1/var/cache/apt/archives"
}

leave() { umount --recursive "$1"/{proc,dev,var/cache/apt/archives}; }

# tidy removes what no container reads, and what differs from build to build.
tidy() {
	find "$1"/var/log "$1"/tmp -type f -delete
	find "$1"/usr/share/{doc,info,lintian,locale,man} ! -type d -delete
	rm -rf "$1"/var/{cache/ldconfig/aux-cache,cache/debconf/*-old,lib/dpkg/*-old}
}

# apt_get runs this machine's apt, with its proxies and credentials, upon the root file system $1.
apt_get() {
	apt-get -c "$apt/apt.conf" -qq -y -o pkgCacheGen::ForceEssential=, -o DPkg::Options::=--force-unsafe-io \
		-o Dir::State::Status="$1/var/lib/dpkg/status" -o Dir::Cache::Archives="$1/var/cache/apt/archives" \
		-o DPkg::Chroot-Directory="$1" "${@:2}"
}

# build_base does what debootstrap does, with this machine's apt: unpack all, then let dpkg install the same packages.
build_base() {
	local name
	rm -rf "$base" && mkdir -p "$base"/{usr/{bin,sbin,lib,lib64},var/lib/dpkg,etc/dpkg/dpkg.cfg.d,tmp}
	chmod 1777 "$base/tmp"
	for name in bin sbin lib lib64; do ln -s "usr/$name" "$base/$name"; done
	printf 'path-exclude /usr/share/%s/*\n' doc info lintian locale >"$base/etc/dpkg/dpkg.cfg.d/slim"
	: >"$base/var/lib/dpkg/status"
	enter "$base" "$apt/base"
	fetch "Debian's essential packages" "$apt_advice" \
		apt_get "$base" install --download-only '?essential' usr-is-merged
	for name in "$apt"/base/*.deb; do
		dpkg-deb --fsys-tarfile "$name" | tar -C "$base" -x --keep-directory-symlink
	done
	chroot "$base" sh -c 'dpkg --force-depends --force-unsafe-io --install /var/cache/apt/archives/*.deb' \
		>"$logs/base.log" 2>&1 || die "cannot install the base layer: see $logs/base.log"
	leave "$base"
	tidy "$base"
	pack_layer "$base" "$work/base.layer"
}

pack_layer() { "$work/pack" layer -newest "$(stat -c %Y "$apt"/lists/*InRelease)" "$1" "$2"; }

# build_image installs into an overlay over the base: its upper directory becomes the image's second layer.
build_image() {
	local name=$1 tmp=$work/$1 layers=("$work/base.layer") packages
	if [[ -f $here/$name/packages ]]; then
		rm -rf "$tmp" && mkdir -p "$tmp"/{upper,work,merged}
		mount -t overlay -o "lowerdir=$base,upperdir=$tmp/upper,workdir=$tmp/work,redirect_dir=off,metacopy=off" \
			overlay "$tmp/merged"
		enter "$tmp/merged" "$apt/archives"
		printf '#!/bin/sh\nexit 101\n' >"$tmp/merged/usr/sbin/policy-rc.d" # start no service
		chmod +x "$tmp/merged/usr/sbin/policy-rc.d"
		mapfile -t packages <"$here/$name/packages"
		fetch "Debian packages for $name" "$apt_advice" apt_get "$tmp/merged" install "${packages[@]}"
		rm "$tmp/merged/usr/sbin/policy-rc.d"
		cp -R "$here/$name/root/." "$tmp/merged"
		leave "$tmp/merged"
		tidy "$tmp/merged"
		umount "$tmp/merged"
		pack_layer "$tmp/upper" "$tmp/layer"
		layers+=("$tmp/layer")
	fi
	"$work/pack" image -name "docker.io/library/$name:latest" -config "$here/$name/config.json" \
		"$work/$name.tar" "${layers[@]}"
	mv "$work/$name.tar" "$images/"
	rm -rf "$tmp"
}

# sum prints one checksum over files and directories: their names, modes and contents.
sum() { tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 -c "$@" | sha256sum; }

mkdir -p "$images" "$work"
cd "$here"
names=("$@")
((${#names[@]})) || names=(*/config.json)
names=("${names[@]%/config.json}")
for name in "${names[@]}"; do
	[[ -f $name/config.json ]] || die "no image $name: choose among $(echo */config.json | sed 's|/config.json||g')"
done
builder=$(sum integration/images/build.sh integration/images/pack integration/tools/fetch.sh)

once image-pack "$builder" env -C "$root" CGO_ENABLED=0 go build -trimpath -o "$work/pack" ./integration/images/pack
once image-lists "$apt" update_lists
once image-base "$builder" build_base
for name in "${names[@]}"; do
	once "image-$name" "$builder$(sum "integration/images/$name")" build_image "$name"
done
