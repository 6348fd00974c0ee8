#!/bin/sh
# Collects what a supporter asks for, on the node itself: under the name and with the options of the reference's script.
#
# It needs nothing of ours alive. What the aws-node container can tell beside that (`vpccni support-bundle`) is added as
# vpccni/node.tar.gz. No kubeconfig, token or environment is collected.
set -u
umask 077

usage() {
    echo "usage: aws-cni-support.sh [--ignore_introspection=true|false] [--ignore_metrics=true|false] [--out_folder=FOLDER] [--help]"
}

ignore_introspection=false
ignore_metrics=false
folders="/var/log /run /dev/shm"
for option in "$@"; do
    case "$option" in
        --ignore_introspection=true | --ignore_introspection=false) ignore_introspection=${option#*=} ;;
        --ignore_metrics=true | --ignore_metrics=false) ignore_metrics=${option#*=} ;;
        --out_folder=*) folders="${option#*=} $folders" ;;
        --help) usage; exit 0 ;;
        *) usage >&2; exit 1 ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "aws-cni-support.sh: run it as root" >&2; exit 1; }

enough_kb=65536
room_kb() { df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }'; }
out_folder=""
for folder in $folders; do # a full disk is one of the reasons to run this
    if [ -w "$folder" ] && [ "$(room_kb "$folder")" -gt "$enough_kb" ]; then out_folder=$folder; break; fi
done
[ -n "$out_folder" ] || { echo "aws-cni-support.sh: no folder has $enough_kb KiB left" >&2; exit 1; }
work=$(mktemp -d "$out_folder/.eks-log-collector.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir -p "$work/ipamd" "$work/cni" "$work/var_log/aws-routed-eni" "$work/networking" "$work/sysctls" "$work/kernel" \
    "$work/storage" "$work/system" "$work/kubelet" "$work/containerd" "$work/vpccni"

# save FILE COMMAND...: at most 10 s; what is missing or fails is told in errors.txt
save() {
    file=$1
    shift
    if ! command -v "$1" >/dev/null 2>&1; then
        echo "$file: $1 is not on this node" >>"$work/errors.txt"
    elif ! timeout 10 "$@" >"$work/$file" 2>"$work/.stderr" </dev/null; then
        echo "$file: $* failed: $(head -c 300 "$work/.stderr")" >>"$work/errors.txt"
    fi
}

if [ "$ignore_introspection" = false ]; then
    for page in enis pods networkutils-env-settings ipamd-env-settings eni-configs; do
        save "ipamd/$page.json" curl -s --max-time 3 "http://localhost:61679/v1/$page"
    done
fi
[ "$ignore_metrics" = true ] || save ipamd/metrics.json curl -s --max-time 3 http://localhost:61678/metrics
cp -p /var/run/aws-node/ipam*.json "$work/ipamd/" 2>/dev/null
cp -p /var/run/aws-node/settings.json "$work/vpccni/" 2>/dev/null
for file in /etc/cni/net.d/*.conf /etc/cni/net.d/*.conflist; do
    [ -f "$file" ] && cp -p "$file" "$work/cni/"
done
for file in /var/log/aws-routed-eni/*; do
    [ -f "$file" ] && tail -c 20971520 "$file" >"$work/var_log/aws-routed-eni/${file##*/}"
done
for file in /var/log/syslog /var/log/messages /var/log/cloud-init.log /var/log/cloud-init-output.log; do
    [ -f "$file" ] && tail -c 20971520 "$file" >"$work/var_log/${file##*/}"
done
for name in aws-node cni-metrics-helper coredns kube-proxy; do
    for file in /var/log/containers/"$name"*; do
        [ -f "$file" ] && tail -c 5242880 "$file" >"$work/var_log/${file##*/}"
    done
done
for table in mangle filter nat; do
    save "networking/iptables-$table.txt" iptables -w 5 --numeric --verbose --list --table "$table"
done
save networking/iptables-save.txt iptables-save -c
save networking/ip6tables-save.txt ip6tables-save -c
save networking/nft.txt nft list ruleset
save networking/conntrack.txt conntrack -S
save networking/ip_rule.txt ip rule
save networking/ip6_rule.txt ip -6 rule
save networking/ip_route_all.txt ip route show table all
save networking/ip6_route_all.txt ip -6 route show table all
save networking/ip_link.txt ip -d -s link
save networking/ip_addr.txt ip addr
save networking/resolv.conf cat /etc/resolv.conf
save sysctls/sysctl_all.txt sysctl -a
save kernel/dmesg.txt dmesg
save kernel/uname.txt uname -a
save storage/mounts.txt mount
save storage/df.txt df -h
save storage/inodes.txt df -i
save storage/lsblk.txt lsblk
save system/top.txt top -b -n 1
save system/ps.txt ps -eo pid,ppid,pcpu,pmem,rss,etime,comm
save system/netstat.txt ss -tunap
save kubelet/kubelet.log journalctl -u kubelet --since -10d --no-pager
save containerd/containerd.log journalctl -u containerd --since -10d --no-pager
save containerd/containers.txt crictl ps -a
save containerd/images.txt crictl images

instance=$(cat /var/lib/cloud/data/instance-id 2>/dev/null)
if command -v vpccni >/dev/null 2>&1; then
    timeout 180 vpccni support-bundle --out - >"$work/vpccni/node.tar.gz" 2>>"$work/errors.txt" </dev/null
elif command -v crictl >/dev/null 2>&1; then
    container=$(timeout 10 crictl ps --name '^aws-node$' --quiet 2>/dev/null | head -n 1)
    if [ -n "$container" ]; then
        timeout 180 crictl exec "$container" vpccni support-bundle --out - >"$work/vpccni/node.tar.gz" 2>>"$work/errors.txt" </dev/null
    else
        echo "vpccni/node.tar.gz: no aws-node container runs" >>"$work/errors.txt"
    fi
fi

# Credentials that found their way into a log or a configuration are blanked.
rm -f "$work/.stderr"
find "$work" -type f ! -name '*.gz' -exec sed -i -E \
    -e 's/eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*/[REDACTED]/g' \
    -e 's/(AKIA|ASIA)[A-Z0-9]{16}/[REDACTED]/g' \
    -e 's/([Bb]earer|[Bb]asic) +[A-Za-z0-9+\/=._~-]{8,}/\1 [REDACTED]/g' \
    -e 's/((secret_?access_?key|session_?token|password|token|key-data|certificate-data)\\?["'\'']?[[:space:]]*[:=][[:space:]]*\\?["'\'']?)[^][:space:]"'\'',}\\[]{4,}/\1[REDACTED]/Ig' \
    -e '/-----BEGIN [A-Z ]*PRIVATE KEY-----/,/-----END [A-Z ]*PRIVATE KEY-----/c [REDACTED]' {} +

bundle="$out_folder/eks_${instance:-$(uname -n)}_$(date -u +%Y-%m-%d_%H%M-UTC)_vpccni.tar.gz"
tar -C "$work" -czf "$bundle" . || { echo "aws-cni-support.sh: $bundle cannot be written" >&2; rm -f "$bundle"; exit 1; }
echo "$bundle"
