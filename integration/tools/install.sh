#!/bin/bash
# Puts everything that sprout is tested against into _out/bin: containerd, ctr, runc, CRIU and network plugins for pods.
#
#   install.sh [packages|containerd|runc|cni|criu|dev|etcd|kubernetes]...
#
# The default is all but dev, which only `make check` needs, and etcd and kubernetes, which only `make kube-test` needs.
#
# Each step remembers that it is done; running again costs nothing. Nothing is installed on the machine but the Debian
# packages listed below, and those only when missing. OUT=dir puts the results elsewhere.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

containerd_version=v2.4.2
runc_version=v1.5.2
cni_version=v1.9.1
kubernetes_version=v1.37.2
criu_minimum=4.2 # older ones cannot restore sockets on kernels >= 6.16

cni_plugins=({main/bridge,main/loopback,ipam/host-local,meta/portmap}@$cni_version)

packages=(
	ca-certificates curl
	gcc libc6-dev pkg-config libseccomp-dev # runc is cgo
	patchelf                                # CRIU
	zstd                                    # images
	protobuf-compiler                       # make generate
	iproute2 iptables                       # container networks; CRIU calls iptables
	xfsprogs btrfs-progs                    # file systems of the tests' own
)

go_tools=(
	github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mvdan.cc/gofumpt@v0.12.0
	honnef.co/go/tools/cmd/staticcheck@v0.8.2
	google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc@v1.2.10
)

need_go() {
	local have
	have=$(go env GOVERSION 2>/dev/null) || die "no Go in PATH: install Go 1.26 or newer from https://go.dev/dl"
	[[ $(printf '%s\n' go1.26 "$have" | sort -V | head -n 1) == go1.26 ]] ||
		die "Go is $have: install Go 1.26 or newer from https://go.dev/dl"
}

go_advice="the Go module proxy must be reachable; set GOPROXY if yours is another than 'go env GOPROXY' says"

go_install() {
	local what=$1
	shift
	fetch "$what" "$go_advice" env GOBIN="$bin" go install -trimpath "$@"
}

install_packages() {
	local missing=() p
	for p in "${packages[@]}"; do
		[[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
	done
	((${#missing[@]})) || return 0
	need_root
	fetch "Debian package lists" "$apt_advice" apt-get update
	fetch "Debian packages ${missing[*]}" "$apt_advice" \
		env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

install_containerd() {
	local module=github.com/containerd/containerd/v2
	CGO_ENABLED=0 go_install "containerd $containerd_version" \
		-ldflags "-s -w -X $module/version.Version=$containerd_version" \
		$module/cmd/{containerd,ctr,containerd-shim-runc-v2}@$containerd_version
}

install_runc() {
	CGO_ENABLED=1 go_install "runc $runc_version" \
		-ldflags "-s -w" -tags seccomp github.com/opencontainers/runc@$runc_version
}

# install_cni takes what a container needs to have an address, and a port of its host.
install_cni() {
	local module=github.com/containernetworking/plugins/plugins
	CGO_ENABLED=0 go_install "CNI plugins $cni_version" -ldflags "-s -w" "${cni_plugins[@]/#/$module/}"
}

criu_new_enough() {
	local have
	have=$("$1" --version 2>/dev/null | sed -n 's/^Version: *//p')
	[[ -n $have && $(printf '%s\n' $criu_minimum "$have" | sort -V | head -n 1) == "$criu_minimum" ]]
}

# install_criu takes the machine's own CRIU when it is new enough. Debian stable's is not, so else it unpacks that of Debian
# testing with the libraries it links to, newer than this machine's, and binds it to these copies: a plain executable, with
# no wrapper in front that would cost a start or leak LD_LIBRARY_PATH into the tools which CRIU runs.
install_criu() {
	local host
	rm -f "$bin/criu"
	host=$(command -v criu || true)
	if [[ -n $host ]] && criu_new_enough "$host"; then
		ln -sf "$host" "$bin/criu"
		return
	fi

	local apt=$cache/apt-testing tree deb lib
	private_apt "$apt" testing
	fetch "Debian testing package lists" "$apt_advice" apt-get -c "$apt/apt.conf" update --error-on=any
	fetch "CRIU from Debian testing" "$apt_advice" apt-get -c "$apt/apt.conf" install -y --download-only criu

	tree=$(mktemp -d "$OUT/criu.XXXXXX")
	for deb in "$apt"/archives/*.deb; do dpkg-deb -x "$deb" "$tree"; done
	local loader=$tree/usr/lib64/ld-linux-x86-64.so.2
	local libs=$tree/usr/lib/x86_64-linux-gnu
	rm -rf "$OUT/criu" && mkdir -p "$OUT/criu"
	cp "$(find "$tree/usr" -name criu -type f -perm /111)" "$loader" "$OUT/criu/"
	for lib in $("$loader" --library-path "$libs" --list "$OUT/criu/criu" | awk '$3 ~ /^\// { print $3 }'); do
		cp -L "$lib" "$OUT/criu/"
	done
	rm -rf "$tree" "$apt"

	patchelf --set-interpreter "$OUT/criu/${loader##*/}" --force-rpath --set-rpath "$OUT/criu" "$OUT/criu/criu"
	ln -sf ../criu/criu "$bin/criu"
	criu_new_enough "$bin/criu" || die "CRIU of Debian testing is older than $criu_minimum: $("$bin/criu" --version)"
	say "CRIU $("$bin/criu" --version | sed -n 's/^Version: *//p') from Debian testing"
}

# install_etcd unpacks the one program of Debian's package.
install_etcd() {
	local apt=$cache/apt-etcd tree
	private_apt "$apt" bookworm
	fetch "Debian package lists for etcd" "$apt_advice" apt-get -c "$apt/apt.conf" update --error-on=any
	fetch "etcd from Debian" "$apt_advice" env -C "$apt" apt-get -c "$apt/apt.conf" download etcd-server
	tree=$(mktemp -d "$OUT/etcd.XXXXXX")
	dpkg-deb -x "$apt"/etcd-server_*.deb "$tree"
	cp "$tree/usr/bin/etcd" "$bin/"
	rm -rf "$tree" "$apt"
}

# install_kubernetes builds the programs of one node. In its repository Kubernetes finds its libraries in a directory that the
# module does not have: their releases take its place, in a copy of go.mod. It takes five minutes on two cores.
install_kubernetes() {
	local module=k8s.io/kubernetes@$kubernetes_version modfile=$cache/kubernetes.mod source
	local version=k8s.io/component-base/version libraries=v0.${kubernetes_version#v1.}
	fetch "the source of Kubernetes" "$go_advice" go mod download "$module"
	source=$(go env GOMODCACHE)/$module
	sed -E "s,=> \./staging/src/(k8s\.io/[a-z-]+),=> \1 $libraries," "$source/go.mod" >"$modfile"
	cat "$source/go.sum" >"${modfile%.mod}.sum"
	fetch "Kubernetes $kubernetes_version" "$go_advice" \
		env -C "$source" GOWORK=off CGO_ENABLED=0 GOBIN="$bin" go install -mod=mod -modfile="$modfile" -trimpath \
		-ldflags "-s -w -X $version.gitVersion=$kubernetes_version -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d . -f 2 <<<"$kubernetes_version")" \
		./cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kubectl}
}

install_dev() {
	local tool
	for tool in "${go_tools[@]}"; do
		CGO_ENABLED=0 go_install "${tool##*/}" -ldflags "-s -w" "$tool"
	done
}

step() {
	case $1 in
	packages) install_packages ;;
	containerd) need_go && once containerd "$containerd_version" install_containerd ;;
	runc) need_go && once runc "$runc_version" install_runc ;;
	cni) need_go && once cni "${cni_plugins[*]}" install_cni ;;
	criu) once criu "$criu_minimum $OUT" install_criu ;;
	etcd) once etcd bookworm install_etcd ;;
	kubernetes) need_go && once kubernetes "$kubernetes_version" install_kubernetes ;;
	dev) need_go && once dev "${go_tools[*]}" install_dev ;;
	*) die "unknown step $1: packages, containerd, runc, cni, criu, dev, etcd or kubernetes" ;;
	esac
}

# CRIU waits for a mirror while Go compiles.
install_all() {
	step packages
	step criu &
	step runc
	step containerd
	step cni
	wait $!
}

if (($#)); then
	for s; do step "$s"; done
else
	install_all
fi
