#!/usr/bin/env bash
# Ceph's gateway with a monitor and one OSD in memory, all on the loopback, without any right:
#   radosgw.sh FOLDER PORT KEY SECRET
# Runs until it is told to end. FOLDER/ready appears when it serves, and holds its version.
# Debian: radosgw ceph-mon ceph-osd ceph-common
set -euo pipefail

folder=$1 port=$2 key=$3 secret=$4
mkdir -p "$folder/osd" "$folder/rgw"
cd "$folder"
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'exit 0' TERM INT
monitor=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >ceph.conf <<END
[global]
fsid = $fsid
mon host = [v1:$monitor]
ms bind msgr2 = false
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
mon allow pool size one = true
mon data avail crit = 0
mon data = $folder/mon
osd data = $folder/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd class update on start = false
osd crush update on start = false
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
rgw rados pool pg num min = 8
rgw frontends = beast endpoint=127.0.0.1:$port
rgw data = $folder/rgw
run dir = $folder
crash dir = $folder
log file = $folder/\$name.log
admin socket = $folder/\$name.\$pid.asok
pid file = $folder/\$name.pid
keyring = $folder/keyring
END
export CEPH_CONF=$folder/ceph.conf
touch keyring
monmaptool --create --addv a "[v1:$monitor]" --fsid "$fsid" monmap
ceph-mon --mkfs -i a --monmap monmap
ceph-mon -i a -f &
ceph-osd -i 0 --mkfs
timeout 60 ceph osd create "$(cat osd/fsid)"
timeout 60 ceph osd crush add osd.0 1 host=local root=default
ceph-osd -i 0 -f &
timeout 120 radosgw-admin -n client.rgw user create --uid test --display-name test \
  --access-key "$key" --secret "$secret"
radosgw -n client.rgw -f &
until curl -s --noproxy '*' -o /dev/null "http://127.0.0.1:$port/"; do sleep 0.5; done
radosgw --version >version
mv version ready
wait -n
