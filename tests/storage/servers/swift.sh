#!/usr/bin/env bash
# OpenStack Swift with its S3 interface: one replica, all servers on the loopback:
#   swift.sh FOLDER PORT KEY SECRET       KEY is ACCOUNT:USER
# Runs until it is told to end. FOLDER/ready appears when it serves, and holds its version. FOLDER
# must lie where files can have extended attributes.
# Debian: swift-proxy swift-account swift-container swift-object memcached (/etc/swift/swift.conf is used)
set -euo pipefail

folder=$1 port=$2 key=$3 secret=$4
mkdir -p "$folder/devices/d1"
cd "$folder"
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'exit 0' TERM INT
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
cache_port=$(free_port)
memcached -l 127.0.0.1 -p "$cache_port" -U 0 -u "$(id -un)" &
common="[DEFAULT]
bind_ip = 127.0.0.1
user = $(id -un)
swift_dir = $folder
devices = $folder/devices
mount_check = false
workers = 0
recon_cache_path = $folder
"
for kind in account container object; do
  its_port=$(free_port)
  swift-ring-builder "$kind.builder" create 2 1 0
  swift-ring-builder "$kind.builder" add --region 1 --zone 1 --ip 127.0.0.1 --port "$its_port" --device d1 --weight 1
  swift-ring-builder "$kind.builder" rebalance
  cat >"$kind.conf" <<END
$common
bind_port = $its_port
[pipeline:main]
pipeline = $kind-server
[app:$kind-server]
use = egg:swift#$kind
END
  "swift-$kind-server" "$folder/$kind.conf" &
done
cat >proxy.conf <<END
$common
bind_port = $port
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth bulk slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$cache_port
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_${key/:/_} = $secret .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
END
swift-proxy-server "$folder/proxy.conf" &
until curl -s --noproxy '*' -o /dev/null "http://127.0.0.1:$port/"; do sleep 0.5; done
dpkg-query -W -f '${source:Package} ${Version}\n' swift-proxy >version
mv version ready
wait -n
