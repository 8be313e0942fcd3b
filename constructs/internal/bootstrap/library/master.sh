# The library of a Master Node, behind the common one.
# shellcheck shell=bash disable=SC2016,SC2034,SC2153,SC2154 # jq has names of its own; others come from the header and the user data

LIBRARY_LINES=$((LINENO - 4)) # before this script

DEVICE=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${VOLUME_ID/-/}
STAGE=/run/openvidu-volume

install_services() {
  local tool
  local networkd=/etc/systemd/networkd.conf.d/90-openvidu.conf
  mkdir -p /etc/systemd/system/openvidu.service.d "${networkd%/*}"
  # OpenVidu must never start on the empty directory below the volume.
  printf '[Unit]\nAssertPathIsMountPoint=/opt/openvidu\nRequiresMountsFor=/opt/openvidu\n' \
    >/etc/systemd/system/openvidu.service.d/volume.conf
  # networkd, when it reconfigures an interface, would sweep away the source routing set up below. It reads this at its start alone.
  [[ -e $networkd ]] || {
    printf '[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n' >"$networkd"
    systemctl try-restart systemd-networkd || say 'WARNING: networkd was not restarted'
  }
  unit openvidu-routes routes $'Restart=always\nRestartSec=5'
  # OpenVidu's update script and its procedures for clusters on AWS call these by name, with these arguments.
  for tool in store_secret get_value_from_{secret,config} update_{config_from_secret,secret_from_config} restart check_app_ready; do
    printf '#!/bin/bash\nexec %s tool %s "$@"\n' "$SELF" "$tool" >"/usr/local/bin/$tool.sh"
    chmod 755 "/usr/local/bin/$tool.sh"
  done
}

# The old instance may hold the interface for minutes: EC2 refuses until it lets go.
attach_interface() {
  local answer owner
  answer=$(aws ec2 describe-network-interfaces --network-interface-ids "$ENI_ID" \
    --query 'NetworkInterfaces[0].[Attachment.InstanceId,MacAddress]') &&
    answer=$(expected "(None|$AN_INSTANCE)[[:space:]]+[0-9a-f]{2}(:[0-9a-f]{2}){5}" "$answer") || return
  read -r owner MAC <<<"$answer"
  [[ $owner == "$INSTANCE_ID" ]] || aws ec2 attach-network-interface --network-interface-id "$ENI_ID" \
    --instance-id "$INSTANCE_ID" --device-index 1 || return
  echo "$MAC" >"$STATE/mac"
}

find_interface() {
  DEV=$(grep -lix "$MAC" /sys/class/net/*/address) && DEV=${DEV#/sys/class/net/} && DEV=${DEV%/address}
}

# Table 1777 is away from those of amazon-ec2-net-utils (10000 and up).
# Answers from the fixed IP must leave by its own interface, else the VPC drops them. Amazon Linux sees to that too, Ubuntu
# does not; rules of both do no harm. The address is a /32: with the subnet's prefix all traffic of the first interface
# would leave by the second.
route_interface() {
  local via primary subnet ip hop
  read -r _ _ via _ primary _ < <(ip -4 route show default | grep -v " dev $DEV ")
  subnet=$(ip -4 route show dev "$primary" scope link | awk '$1~"/"&&!n++{print $1}')
  ip link set "$DEV" up
  ip addr replace "$FIXED_IP/32" dev "$DEV"
  ip route replace "$subnet" dev "$DEV" table 1777
  ip route replace default via "$via" dev "$DEV" onlink table 1777
  # Boot and service may do it at once.
  [[ -n $(ip rule show table 1777) ]] || ip rule add from "$FIXED_IP" table 1777 priority 1000 || [[ -n $(ip rule show table 1777) ]]
  # What the other masters remember of this one (Redis its replicas, for one) must outlive the instance: they see the fixed IP.
  for ip in "${MASTER_IPS[@]}"; do
    [[ $ip != "$FIXED_IP" ]] || continue
    hop=$(ip -4 route get "$ip" | sed -nE 's/.* (via [0-9.]+) .*/\1 onlink/p')
    # shellcheck disable=SC2086 # words
    ip route replace "$ip" $hop dev "$DEV" src "$FIXED_IP"
  done
}

# routes: whatever reloads an interface takes its addresses and routes away. They are put back at once: a connection that is opened in
# between leaves from the address that dies with the instance.
routes() {
  local code=0
  trap - ERR
  set +e
  ip monitor address route rule | while ((code == 0 || code > 128)); do # a time-out, no end of input
    MAC=$(cat "$STATE/mac") && find_interface && route_interface
    while read -rt 1; do :; done # what that changed
    read -rt 15
    code=$?
  done 2>/dev/null
}

attach_fixed_ip() {
  MAC=$(cat "$STATE/mac" 2>/dev/null) || MAC=
  # After a reboot the interface is still there: no API is asked.
  if [[ -z $MAC ]] || ! find_interface; then
    retry 90 10 attach_interface
    retry 60 2 find_interface || die "no interface $ENI_ID ($MAC)"
  fi
  route_interface
}

# EC2 refuses as long as the old instance holds the volume. After a reboot it is still there: no API is asked.
attach_volume() {
  [[ -b $DEVICE ]] || {
    aws ec2 attach-volume --volume-id "$VOLUME_ID" --instance-id "$INSTANCE_ID" --device /dev/sdf &&
      retry 10 2 test -b "$DEVICE"
  }
}

attach_data_volume() {
  local size
  retry 45 20 attach_volume || die "volume $VOLUME_ID never became $DEVICE; is it a Nitro instance?"
  size=$(blockdev --getsize64 "$DEVICE")
  ((size >= DISK_SIZE << 30)) || die "volume $VOLUME_ID has $((size >> 30)) GiB; DiskSize asks for $DISK_SIZE"
}

# Only a blank volume is ever formatted, or one whose formatting was cut off (XFS says so itself, in byte 126).
format_if_blank() {
  local found code=0
  found=$(blkid -p -o export "$DEVICE") || code=$?
  case $code:$found in
    2:) cmp -n 1048576 "$DEVICE" /dev/zero || die "volume $VOLUME_ID is neither blank nor known; left as it is" ;;
    0:*LABEL=openvidu$'\n'*TYPE=xfs*) [[ $(od -An -tu1 -j126 -N1 "$DEVICE") -eq 1 ]] || return 0 ;;
    *) die "volume $VOLUME_ID holds a foreign file system (${found//$'\n'/ }); left as it is" ;;
  esac
  mkfs.xfs -q -f -L openvidu "$DEVICE"
}

# First life of a slot: what the installer made is copied onto the volume; the marker is renamed last, so that a copy cut
# off starts again. Later lives: the volume's /opt/openvidu takes the place of the fresh one (OpenVidu's documented
# restore). Nothing is deleted but such a copy.
adopt_volume() {
  local copying=$STAGE/.openvidu-copying complete=$STAGE/.openvidu-complete
  format_if_blank
  mkdir -p "$STAGE"
  mountpoint -q "$STAGE" || mount "$DEVICE" "$STAGE"
  if [[ ! -e $complete ]]; then
    [[ -e $copying || -z $(ls -A "$STAGE") ]] || die "volume $VOLUME_ID holds unknown files; left as it is"
    : >"$copying"
    sync -f "$STAGE"
    find "$STAGE" -xdev -mindepth 1 ! -path "$copying" -delete
    cp -a "$OPENVIDU/." "$STAGE/"
    sync -f "$STAGE"
    mv "$copying" "$complete"
    FIRST_LIFE=yes # the function that filled the secret has filled the other
    sync -f "$STAGE"
  fi
  umount "$STAGE"
  rm -rf --one-file-system "$OPENVIDU"
}

# From the next boot on Docker starts when the volume is mounted, or not at all: its containers, which it restarts of its own accord,
# would write to the root disk. When the volume comes late, this mounts it, and OpenVidu's unit starts Docker.
mount_volume() {
  mkdir -p "$OPENVIDU"
  grep -q " $OPENVIDU " /etc/fstab || {
    echo "$DEVICE $OPENVIDU xfs nofail,x-systemd.device-timeout=30,x-systemd.before=docker.service,x-systemd.required-by=docker.service 0 0" >>/etc/fstab
    systemctl daemon-reload
  }
  mountpoint -q "$OPENVIDU" || mount "$DEVICE" "$OPENVIDU"
  xfs_growfs "$OPENVIDU" >/dev/null # takes what a bigger DiskSize gave; else it changes nothing
}

# The keys of the secret that a Master Node is installed with; the installer's flags are named after them.
CLUSTER_KEYS=(DOMAIN_NAME ENABLED_MODULES OPENVIDU_{PRO_LICENSE,RTC_ENGINE} LIVEKIT_{TURN_DOMAIN_NAME,API_KEY,API_SECRET}
  {MONGO,DASHBOARD,GRAFANA}_ADMIN_{USERNAME,PASSWORD} MONGO_REPLICA_SET_KEY MINIO_{ACCESS,SECRET}_KEY)
MEET_KEYS=(MEET_INITIAL_{ADMIN_PASSWORD,API_KEY})
# Of a cluster that keeps recordings in S3; the installer has no flags for them.
S3_KEYS=(EXTERNAL_S3_{ENDPOINT,REGION,PATH_STYLE_ACCESS,BUCKET_APP_DATA,BUCKET_CLUSTER_DATA})

# note_installers: of a release that no node of this cluster was installed with before. Four masters boot at once: the first slot's does
# it before its installation, another one after its own, if nobody has.
note_installers() { [[ $SLOT != 1 ]] || record_installers; }

noted() { [[ $(jq --arg r "_$RELEASE" 'has("INSTALLER_MASTER"+$r) and has("INSTALLER_MEDIA"+$r)' <<<"$SECRET") == true ]]; }

record_installers() {
  local role sum notes='{}'
  ! noted || return 0
  for role in master media; do
    retry 10 15 fetch_installer "$role"
    sum=$(sha256sum <"$STATE/installer.sh")
    notes=$(jq -c --arg k "INSTALLER_${role^^}_$RELEASE" --arg v "${sum%% *}" '.[$k]=$v' <<<"$notes")
  done
  NOTES=$notes change '($ENV.NOTES|fromjson)+.' # who noted first counts
}

install_master() {
  local key value flag flags=()
  for key in "${CLUSTER_KEYS[@]}" "${MEET_KEYS[@]}" REDIS_PASSWORD; do
    flag=${key,,}
    flag=${flag//_/-}
    case $key in
      OPENVIDU_RTC_ENGINE) flag=rtc-engine ;;
      LIVEKIT_TURN_DOMAIN_NAME)
        [[ $(jq -r ".$key" <<<"$SECRET") == ?*.* ]] || continue
        flag=turn-domain-name
        ;;
      MEET_INITIAL_API_KEY) # OpenVidu Meet has none until its administrator makes one, unless one is given
        [[ $(jq -r ".$key//\"\"" <<<"$SECRET") == ?* ]] || continue
        ;;
    esac
    value=$(secret "$key")
    flags+=("--${flag/username/user}=$value")
  done
  install_openvidu master --external-load-balancer "${flags[@]}"
  noted || {
    fetch_secret
    record_installers
  }
}

# settings COMMAND: runs it with each file of the configuration and the keys of the secret that belong there.
settings() {
  "$1" cluster/openvidu.env "${CLUSTER_KEYS[@]}" "${S3_KEYS[@]}" &&
    "$1" cluster/master_node/meet.env MEET_INITIAL_ADMIN_USER "${MEET_KEYS[@]}" &&
    "$1" node/master_node.env REDIS_PASSWORD
}

apply_settings() {
  settings put_settings && { [[ -n ${FIRST_LIFE:-} ]] || share || say 'WARNING: Media Nodes read older credentials than Master Nodes'; }
}

# try_edit ARN FILTER JQ-OPTION…: nobody's edit is lost. The new version becomes the current one only in the place of the version that
# was read (AWS Secrets Manager API Reference, UpdateSecretVersionStage: fails when RemoveFromVersionId does not match).
try_edit() {
  local arn=$1 filter=$2 was version now new
  was=$(aws secretsmanager get-secret-value --secret-id "$arn" --version-stage AWSCURRENT --output json) &&
    version=$(jq -er .VersionId <<<"$was") && was=$(jq -ec '.SecretString|fromjson' <<<"$was") &&
    now=$(jq -ec "${@:3}" "$filter" <<<"$was") || return
  [[ $now != "$was" ]] || return 0
  EDITED=1
  new=$(aws secretsmanager put-secret-value --secret-id "$arn" --version-stages "$NODE" --query VersionId \
    --secret-string file:///dev/stdin <<<"$now") &&
    aws secretsmanager update-secret-version-stage --secret-id "$arn" --version-stage AWSCURRENT \
      --move-to-version-id "$new" --remove-from-version-id "$version" >/dev/null
}

edit() { retry 20 1 try_edit "$@"; }

# share: Media Nodes have a secret of their own, with the keys that they use. Whoever wrote it looks again whether they are the newest.
share() {
  local EDITED=1 keys
  while [[ -n $EDITED ]]; do
    EDITED=
    keys=$(jq -c 'with_entries(select((.key|test("^(REDIS_PASSWORD|OPENVIDU_VERSION|INSTALLER_.*)$")) and (.value//"")!=""))' <<<"$SECRET") &&
      KEYS=$keys edit "$MEDIA_SECRET_ARN" '.+($ENV.KEYS|fromjson)' || return
    [[ -z $EDITED ]] || fetch_secret || return
  done
}

# change FILTER JQ-OPTION…: what is written on a damaged secret would take the place of the previous version, which is the way back.
change() {
  edit "$SECRET_ARN" 'def lost: [to_entries[]|select((.key|test("PASSWORD$|^(MINIO|LIVEKIT_API|MONGO_REPLICA_SET)_")) and (.value//"")=="").key];
if lost==[] then '"$1"' else error("the secret holds an empty \(lost|join(", ")): restore its previous version first") end' "${@:2}" &&
    fetch_secret && share
}

# store_secret save KEY VALUE | generate KEY [PREFIX] [LENGTH]: prints what it stored.
store_secret() {
  local value=${3:-} length=${4:-44}
  [[ ${2:-} =~ ^[A-Za-z][A-Za-z0-9_-]*$ && $length =~ ^[0-9]{1,3}$ ]] || die 'store_secret.sh save KEY VALUE, or generate KEY [PREFIX] [LENGTH]'
  case $1 in
    save) ;;
    generate) value+=$(head -c 4096 /dev/urandom | base64 -w 0 | tr -d '+/=' | cut -c "-$length") ;;
    *) die 'store_secret.sh save, or generate' ;;
  esac
  # What no file of the configuration can hold is not stored either.
  VALUE=$value jq -n "$QUOTED"'$ENV.VALUE|quoted($k)' --arg k "$2" >/dev/null # no argument: every process of the node sees those
  VALUE=$value change '.[$k]=$ENV.VALUE' --arg k "$2"
  printf '%s\n' "$value"
}

get_value_from_secret() { fetch_secret && secret "$1"; }

# get_value_from_config KEY FILE: "none" stands for an empty one, as in OpenVidu's own.
get_value_from_config() {
  local value
  value=$(sed -nE "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$2" | tail -n 1 | sed -E "$UNQUOTE")
  printf '%s\n' "${value:-none}"
}

update_config_from_secret() {
  change '.DOMAIN_NAME as $d|.+{OPENVIDU_URL:"https://\($d)/",LIVEKIT_URL:"wss://\($d)/",DASHBOARD_URL:"https://\($d)/dashboard/",
GRAFANA_URL:"https://\($d)/grafana/",MINIO_URL:"https://\($d)/minio-console/"}' && apply_settings
}

# take_settings FILE KEY…: what the file has of them and is not empty.
take_settings() {
  local file=$OPENVIDU/config/$1 key value
  for key in "${@:2}"; do
    value=$(get_value_from_config "$key" "$file")
    [[ $value == none ]] || TAKEN=$(VALUE=$value jq -c --arg k "$key" '.[$k]=$ENV.VALUE' <<<"$TAKEN")
  done
}

update_secret_from_config() {
  local TAKEN='{}'
  settings take_settings && TAKEN=$TAKEN change '.+($ENV.TAKEN|fromjson)'
}

restart() { update_config_from_secret && systemctl restart openvidu; }

check_app_ready() { answers 180 http://127.0.0.1:7880/health/caddy; }
