#!/usr/bin/env bash
# Installs units, users and folders for shoal under systemd. Safe to repeat; enables and starts nothing.
#
#   sudo systemd/install.sh [--prefix DIR] [--root DIR]
#
#   --prefix DIR  the virtual environment that shoal is installed in; default /opt/shoal
#   --root DIR    build an image below DIR instead of changing this machine; where another user than
#                 root calls it, only the files are written, without users and folders
set -euo pipefail
umask 022
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=/opt/shoal
root=

die() { echo "install.sh: $*" >&2 && exit 2; }
while (($#)); do
    case $1 in
    --prefix) prefix=${2:?--prefix needs a folder} && shift 2 ;;
    --root) root=$(cd "${2:?--root needs a folder}" && pwd) && shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    *) die "unknown argument $1; see --help" ;;
    esac
done
[[ $prefix == /* && $prefix != *[[:space:]%\\\$\&\|]* ]] || die "--prefix must be an absolute path of plain characters"
[[ -n $root ]] || ((EUID == 0)) || die "only root can do that; --root DIR builds an image elsewhere"
for program in python shoal-agent; do
    [[ -x $root$prefix/bin/$program ]] || echo "note: there is no $root$prefix/bin/$program yet" >&2
done

install -d "$root"/etc/{sysusers.d,tmpfiles.d,systemd/system}
for unit in "$here"/*.service "$here"/*.socket; do
    sed "s|/opt/shoal/bin/|$prefix/bin/|" "$unit" >"$root/etc/systemd/system/.shoal.new"
    chmod 644 "$root/etc/systemd/system/.shoal.new"
    mv "$root/etc/systemd/system/.shoal.new" "$root/etc/systemd/system/${unit##*/}"
done
install -m 644 "$here/sysusers.d/shoal.conf" "$root/etc/sysusers.d/shoal.conf"
install -m 644 "$here/tmpfiles.d/shoal.conf" "$root/etc/tmpfiles.d/shoal.conf"

if ((EUID == 0)); then
    systemd-sysusers "--root=${root:-/}" "$root/etc/sysusers.d/shoal.conf"
    systemd-tmpfiles "--root=${root:-/}" --create "$root/etc/tmpfiles.d/shoal.conf"
fi
[[ -n $root ]] || systemctl daemon-reload
cat <<END
Installed. On a device:
  sudo -u shoal-agent $prefix/bin/shoal-agent enrol --server URL --token TOKEN --ca FILE
  systemctl enable --now shoal-inference.socket shoal-inference-control.socket shoal-inference shoal-agent
On the control plane:
  systemctl enable --now shoal-control-plane
END
