# Fetching things once: shared by the scripts that get what tests and demo need. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
OUT=$(mkdir -p "${OUT:-$root/_out}" && cd "${OUT:-$root/_out}" && pwd)
bin=$OUT/bin
cache=$OUT/cache
stamps=$OUT/stamps
logs=$OUT/log
mkdir -p "$bin" "$cache" "$stamps" "$logs"

say() { echo "$(basename "$0" .sh): $*" >&2; }

die() {
	say "$*"
	exit 1
}

need_root() {
	[[ $EUID == 0 ]] || die "run as root: sprout's tools, images and tests mount, trace and restore"
}

# once NAME INPUT COMMAND... runs the command unless it has already succeeded with this input, whose text may be anything
# that decides the result: versions, checksums of sources.
once() {
	local stamp=$stamps/$1 input=$2
	shift 2
	[[ -f $stamp && $(<"$stamp") == "$input" ]] && return
	local began=$SECONDS
	"$@"
	echo "$input" >"$stamp"
	say "$(basename "$stamp") ready ($((SECONDS - began)) s)"
}

# fetch WHAT ADVICE COMMAND... runs a command that needs the network, its output in a log, and on failure says in one line
# what is missing and what to do.
fetch() {
	local what=$1 advice=$2
	local log=$logs/${what//[^a-zA-Z0-9.]/-}.log
	shift 2
	"$@" >"$log" 2>&1 && return
	die "cannot get $what ($(tail -n 1 "$log")): $advice; all output is in $log"
}

apt_advice="check that 'apt-get update' works on this machine, then run again"

# mirror prints the Debian archive this machine already uses, so that no address is written down here. apt itself reads the
# sources, in whichever of their two formats they are.
mirror() {
	local id release uri
	read -r id release < <(. /etc/os-release && echo "$ID" "${VERSION_CODENAME:-}")
	[[ $id == debian ]] || die "this machine runs $id: the images and CRIU are made from the packages of a Debian machine"
	uri=$(apt-get update --print-uris | sed -n "s|^'\(.*\)/dists/$release/InRelease'.*|\1|p" | head -n 1)
	[[ -n $uri ]] || die "no Debian archive for '$release' in this machine's apt sources: add one, then run again"
	echo "$uri"
}

# private_apt DIR SUITE writes DIR/apt.conf: an apt of its own lists, cache, status and sources, which neither reads nor
# changes the machine's package state but keeps its proxies and credentials. Use it with `apt-get -c DIR/apt.conf`.
private_apt() {
	local dir=$1 suite=$2 uri
	uri=$(mirror)
	mkdir -p "$dir"/{lists,archives}/partial
	: >>"$dir/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" >"$dir/sources.list"
	cat >"$dir/apt.conf" <<-END
		Dir::Etc::SourceList "$dir/sources.list";
		Dir::Etc::SourceParts "-";
		Dir::State "$dir";
		Dir::State::Lists "$dir/lists";
		Dir::State::Status "$dir/status";
		Dir::Cache "$dir";
		Dir::Cache::Archives "$dir/archives";
		APT::Sandbox::User "root";
		APT::Install-Recommends "false";
		Acquire::Languages "none";
		Acquire::Retries "3";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear DPkg::Post-Invoke;
	END
}
