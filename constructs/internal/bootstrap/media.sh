# A Media Node: carries the calls. It drains before Auto Scaling may terminate it.
# shellcheck shell=bash disable=SC2034,SC2153 # names come from the header and common.sh, or are used there

COMMON_LINES=$((LINENO - 4)) # before this script

NODE=media-node # one name for all: the stack waits for the first of them
SIGNALLED=/run/openvidu-drain
A_GROUP='[A-Za-z0-9][A-Za-z0-9_./-]{0,254}'

role_units() { unit openvidu-drain drain $'Restart=always\nRestartSec=5'; }

# A Media Node that cannot work is replaced. What runs may carry calls: then the node must be in service first, since that is what a drain
# begins from.
on_failure() {
  local result=ABANDON
  ! carrying || result=CONTINUE
  terminating || { end_launch "$result" && [[ $result == ABANDON && -z $REFUSED ]]; } || unhealthy
}

unhealthy() {
  retry 5 10 aws autoscaling set-instance-health --instance-id "$INSTANCE_ID" --health-status Unhealthy --no-should-respect-grace-period
}

# end_launch RESULT: Auto Scaling waits for this word before the node counts, or is stopped in the warm pool; after a reboot nobody does.
# It is repeated for the hour that the hook lives.
end_launch() {
  command -v aws >/dev/null || return # the boot is tried again
  retry 180 20 answered 'No active Lifecycle Action' hook complete-lifecycle-action "$READY_HOOK" --lifecycle-action-result "$1"
}

# What Auto Scaling wants of the node.
wanted() { imds autoscaling/target-lifecycle-state '[A-Za-z:]{1,40}'; }

terminating() { [[ $(wanted) == *Terminated ]]; }

boot() {
  step identify
  if terminating; then
    say terminating
    return
  fi
  step install_tools
  step load_library
  step ship_logs
  if [[ ! -e $STATE/installed || -e $STATE/warm ]]; then
    step read_secret
  fi
  if [[ ! -e $STATE/installed ]] || outdated; then
    step download_installer media
    step install_docker
    step install_media
  fi
  step apply_secret
  step before_start
  step ask_purpose
  if [[ $PURPOSE == Warmed:* ]]; then
    step pull_images
    secret OPENVIDU_VERSION >"$STATE/warm"
    step report_ready
    # Auto Scaling stops the node now. When it starts it again, it boots with the settings of that day. The metadata of a node that was
    # started may say for a while that it is warm: such a node goes on.
    until [[ $PURPOSE == InService ]]; do
      sleep 10
      PURPOSE=$(wanted) || :
    done
  fi
  rm -f "$STATE/warm" # from here on OpenVidu is upgraded as OpenVidu documents
  step wait_for_masters
  step start_openvidu
  step healthy http://127.0.0.1:7880/ http://127.0.0.1:9092/
  step signal SUCCESS ready
  step report_ready
}

# The containers that carry calls, one id a line.
carriers() {
  local all
  all=$(timeout 60 docker ps --no-trunc --format '{{.ID}} {{.Names}} {{.Label "openvidu-agent"}}') &&
    awk '$2~/^(openvidu|ingress|egress)$/||$3=="true"{print $1}' <<<"$all"
}

# carrying: does anything that may carry a call run? When Docker does not answer, a container's shim process tells.
carrying() {
  command -v docker >/dev/null || return 1
  if IDS=$(carriers); then
    [[ -n $IDS ]]
  else
    pgrep -f containerd-shim >/dev/null
  fi
}

# tell: SIGQUIT, once to each life of a container: a second one makes LiveKit leave at once and cut the calls. Hence by kill(2), which is
# done when it returns; when docker kill does not come back, nobody knows. Noted before it is sent, for the same reason.
tell() {
  local id pid start
  # shellcheck disable=SC2086 # one word each
  timeout 60 docker update --restart=no $IDS >/dev/null || : # or it may come back, and is told again
  # shellcheck disable=SC2086
  timeout 60 docker inspect --format '{{.Id}} {{.State.Pid}} {{.State.StartedAt}}' $IDS | while read -r id pid start; do
    if [[ ! -e $SIGNALLED/$id-$start ]] && grep -q "$id" "/proc/$pid/cgroup"; then
      : >"$SIGNALLED/$id-$start"
      kill -QUIT "$pid"
    fi
  done
}

# fleet: the name of the group, which no header can hold (group -> launch template -> group). An instance keeps its group, so one answer does.
fleet() {
  local group
  expected "$A_GROUP" "$(cat "$STATE/fleet" 2>/dev/null)" 2>/dev/null || {
    group=$(aws autoscaling describe-auto-scaling-instances --instance-ids "$INSTANCE_ID" --query 'AutoScalingInstances[0].AutoScalingGroupName') &&
      group=$(expected "$A_GROUP" "$group") && [[ $group != None ]] && echo "$group" | tee "$STATE/fleet"
  }
}

# hook ACTION HOOK OPTION…
hook() {
  local group
  group=$(fleet) &&
    timeout 120 aws autoscaling "$1" --auto-scaling-group-name "$group" --lifecycle-hook-name "$2" --instance-id "$INSTANCE_ID" "${@:3}"
}

# beat: heartbeats wait for nothing else. The hook waits HeartbeatTimeout for one a minute, so dozens may fail. Its 48 hours end the instance
# (EC2 Auto Scaling User Guide, Amazon EC2 Auto Scaling lifecycle hooks); abandoned before, its group retains it.
beat() {
  local minutes=0 start
  start=$(expected '[0-9]{1,12}' "$(cat "$STATE/drain")") || start=$(date +%s)
  while :; do
    if (($(date +%s) - start > 172200)); then # 10 minutes less
      hook complete-lifecycle-action "$DRAIN_HOOK" --lifecycle-action-result ABANDON && say 'calls after 48 hours: the instance is retained' &&
        : >"$STATE/retained" && return
    else
      hook record-lifecycle-action-heartbeat "$DRAIN_HOOK" || say 'heartbeat failed'
    fi
    timeout 60 aws cloudwatch put-metric-data --namespace OpenVidu --metric-name DrainMinutes --dimensions "Cluster=$CLUSTER" --value $((minutes++))
    sleep 60
  done
}

# drain: from here on no failure may end the drain, so there is no trap and no errexit.
drain() {
  trap - ERR
  set +eu
  mkdir -p "$SIGNALLED"
  until terminating; do sleep 5; done
  NODE=drain
  say '== drain'
  timeout 120 systemctl stop openvidu-node # a boot still on its way must not start what is to end
  until [[ -n $INSTANCE_ID ]]; do INSTANCE_ID=$(retry 5 5 imds instance-id "$AN_INSTANCE"); done
  [[ -s $STATE/drain ]] || date +%s >"$STATE/drain"
  [[ -e $STATE/retained ]] || beat &
  local beating=$! IDS=''
  while carrying; do
    [[ -z $IDS ]] || tell
    publish
    sleep 10
  done
  kill "$beating"
  say 'no call is left'
  timeout 300 systemctl stop openvidu
  publish
  ship_log # first: the instance may go with the hook
  [[ -e $STATE/retained ]] ||
    until hook complete-lifecycle-action "$DRAIN_HOOK" --lifecycle-action-result CONTINUE; do sleep 10; done
  sleep infinity
}

main "$@"
