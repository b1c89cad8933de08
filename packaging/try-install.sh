#!/usr/bin/env bash
# Runs the steps of docs/install.md, as they stand there, on a fresh Debian 12 (debootstrap, chroot), then sends a reading
# through the installed broker and agent and looks for it in the lake. As root: packaging/try-install.sh DIST [ROOT]
# DIST holds what `make wheel` built. ROOT, if given, keeps the bare Debian for the next try.
set -euo pipefail

dist=$(realpath "${1:?usage: try-install.sh DIST [ROOT]}")
here=$(dirname "$(realpath "$0")")
work=$(mktemp --directory)
bare=${2:-$work/bare}
root=$work/root
trap 'rm --recursive --force --one-file-system "$work"' EXIT

if [ ! -d "$bare/usr" ]; then
    debootstrap --variant=minbase --include=ca-certificates,systemd,iproute2 bookworm "$bare" >"$work/debootstrap.log" ||
        { tail "$work/debootstrap.log" >&2; exit 1; }
fi
cp --archive --reflink=auto "$bare" "$root"
# the machine's own way to its package mirrors: names, certificates, proxies
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # packages start no service while they are installed
chmod 755 "$root/usr/sbin/policy-rc.d"
mkdir "$root/root/dist" "$root/root/try"
cp "$dist"/flockwatch-*.whl "$dist"/requirements.txt "$root/root/dist/"
cp "$here/try-systemctl" "$root/usr/local/sbin/systemctl"

# each ```sh block of the page is one step
awk -v folder="$root/root/try" '
    /^```sh$/ { step++; file = sprintf("%s/%02d.sh", folder, step); next }
    /^```$/   { file = ""; next }
    file      { print > file }' "$here/../docs/install.md"

in_root() {
    env --ignore-environment HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive ${PIP_CERT:+PIP_CERT=/etc/ssl/certs/ca-certificates.crt} \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} "$@"
}

# Steps 1 and 2 need the network; the rest runs with a loopback of its own, so that nothing here meets another broker.
in_root chroot "$root" sh -euc 'apt-get update -qq; apt-get install -qq --yes mosquitto-clients >/dev/null
    cd /root/dist; set -x; . /root/try/01.sh >/dev/null; . /root/try/02.sh'
in_root unshare --net --pid --fork --mount chroot "$root" sh -euc '
    mount -t proc proc /proc; ip link set lo up
    cd /root/dist; set -x
    . /root/try/03.sh; . /root/try/04.sh; . /root/try/05.sh; . /root/try/06.sh; . /root/try/07.sh

    : a reading of house1 goes in by its own user
    password=$(cat /etc/flockwatch/house1.password)
    mosquitto_pub -h 127.0.0.1 -q 1 -u house1 -P "$password" -t skov/farm1/house1/temperature -m 21.5
    sleep 3
    runuser --user flockwatch -- flockwatch status --config /etc/flockwatch/agent.toml
    : sealed by the courier, with its own rights
    systemctl stop flockwatch-sync
    setpriv --reuid=flockwatch-sync --regid=flockwatch --clear-groups sh -c \
        "umask 0007; flockwatch sync --once --config /etc/flockwatch/agent.toml"
    find /var/lib/flockwatch/lake -path "*readings/site=farm1/*.parquet" | grep .
    : after the courier touched the files, the agent must still be able to write
    systemctl stop flockwatch-agent
    setpriv --reuid=flockwatch-sync --regid=flockwatch --clear-groups sh -c \
        "umask 0007; flockwatch sync --once --config /etc/flockwatch/agent.toml"
    systemctl start flockwatch-agent
    mosquitto_pub -h 127.0.0.1 -q 1 -u house1 -P "$password" -t skov/farm1/house1/temperature -m 21.6
    sleep 3
    runuser --user flockwatch -- flockwatch status --json --config /etc/flockwatch/agent.toml | grep "\"readings\": 2"
    systemctl stop flockwatch-agent
    ls -l /var/lib/flockwatch
'
echo "installed, started, and one reading went through to the lake"
