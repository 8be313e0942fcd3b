# The library of a Media Node, behind the common one.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # names come from the header and the user data

LIBRARY_LINES=$((LINENO - 4)) # before this script

AN_ADDRESS='[0-9]{1,3}(\.[0-9]{1,3}){3}'

# An administrator may disable the watchdog.
install_services() { [[ -e $STATE/installed ]] || unit openvidu-watchdog watch $'Restart=on-failure\nRestartSec=60'; }

report_ready() {
  end_launch CONTINUE || say 'WARNING: the launch was not ended'
  [[ -z $REFUSED ]] || say 'no launch waits'
}

# ask_purpose: without an answer nothing goes on. A node that wrongly took itself for one in service would be stopped with its calls.
ask_purpose() { PURPOSE=$(retry 60 5 wanted); }

# What would take longest when the node is needed.
pull_images() {
  (cd "$OPENVIDU" && timeout 1200 docker compose pull -q) || say 'WARNING: images will be pulled at the start'
}

# A stopped node may have been installed for another release than the cluster's of today.
outdated() { [[ -e $STATE/warm && $(<"$STATE/warm") != "$(secret OPENVIDU_VERSION)" ]]; }

# Any master will do: OpenVidu itself waits for the others.
masters_answer() {
  local ip
  for ip in "${MASTER_IPS[@]}"; do
    timeout 3 bash -c "</dev/tcp/$ip/7000" 2>/dev/null && return
  done
  die "no Redis (port 7000) on ${MASTER_IPS[*]}"
}

noted() { fetch_secret && [[ $(jq --arg k "INSTALLER_MEDIA_$RELEASE" 'has($k)' <<<"$SECRET") == true ]]; }

# note_installers: the masters do. Media Nodes boot beside them: those that must see the same installer wait for it.
note_installers() {
  [[ $REQUIRE_SAME_INSTALLER != true ]] || retry 90 10 noted || die "no master has noted the installer of $RELEASE"
}

install_media() {
  local ip password
  ip=$(retry 10 5 imds local-ipv4 "$AN_ADDRESS")
  password=$(secret REDIS_PASSWORD)
  install_openvidu media "--private-ip=$ip" "--redis-password=$password"
}

wait_for_masters() { retry 90 10 masters_answer; } # half an hour, also when each of the four tries lasts its 3 s

apply_settings() { put_settings node/media_node.env REDIS_PASSWORD; }

# busy: mawk prints big sums as floating-point numbers unless told otherwise. Has the CPU been idle for less than a twentieth of the time since it was asked last?
BUSY=(0 0)
busy() {
  local idle all
  read -r idle all < <(awk '{for(i=2;i<9;i++)all+=$i;printf"%.0f %.0f\n",$5+$6,all;exit}' /proc/stat)
  local was=("${BUSY[@]}")
  BUSY=("$idle" "$all")
  (((idle - was[0]) * 20 < all - was[1]))
}

# watch: OpenVidu 3.10 replaces a Media Node whose media server refuses connections for 5 minutes, or answers with errors or time-outs for
# 10, not counting those in which the CPU had no time to spare. Not in the first 15 minutes after OpenVidu's start, not while no
# master answers, not while the node drains. Until that release this does it. Everything is counted in rounds of 20 seconds.
watch() {
  trap - ERR
  set +e
  NODE=watchdog
  until [[ -n $INSTANCE_ID ]]; do INSTANCE_ID=$(retry 5 5 imds instance-id "$AN_INSTANCE"); done
  local code start last='' age=0 refused=0 failed=0 version spare
  while sleep 20; do
    version=$(sed -nE 's/^version:[ "]*([0-9.]+).*/\1/p' "$OPENVIDU/deployment-info.yaml" 2>/dev/null)
    [[ $(printf '3.10\n%s\n' "${version:-0}" | sort -V | tail -n 1) == 3.10 ]] || return 0 # it brings its own
    spare=yes
    ! busy || spare=
    start=$(systemctl show -P ActiveEnterTimestampMonotonic openvidu)
    [[ $start == "$last" ]] || age=0
    last=$start
    ((age++))
    code=0
    curl -sf -m 5 -o /dev/null http://127.0.0.1:7880/ || code=$?
    if ((code == 0 || age <= 45)) || ! systemctl -q is-active openvidu || ! masters_answer 2>/dev/null || terminating; then
      refused=0 failed=0
      continue
    fi
    if ((code == 7)); then ((refused++, failed++)); else refused=0; fi
    [[ $code == 7 || -z $spare ]] || ((failed++))
    ((refused >= 15 || failed >= 30)) || continue
    say "the media server is dead ($refused rounds refused, $failed failed, the last with code $code): this node is to be replaced"
    unhealthy
    publish
    ship_log
    refused=0 failed=0
  done 2>>"$RAW"
}
