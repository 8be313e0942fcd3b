# The user data of every node: what it needs to reach AWS, to tell why it failed, and, a Media Node, to drain. All else is in library/.
# The env header stands before this file, master.sh or media.sh behind it.
# shellcheck shell=bash disable=SC2016 # jq has names of its own

set -Eeuo pipefail
export AWS_DEFAULT_REGION=$REGION AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=4 AWS_DEFAULT_OUTPUT=text PATH=$PATH:/snap/bin

SELF=/usr/local/sbin/openvidu-node
STATE=/var/lib/openvidu-node
LOADED=$STATE/library.sh
LOG=/var/log/openvidu-node.log
RAW=/run/openvidu-node.log # what is printed, credentials too; in memory, and root's alone
OPENVIDU=/opt/openvidu
IMDS=http://169.254.169.254/latest
STEP=start
NODE=node
INSTANCE_ID=
SECRET=
REFUSED=

# All words go to stderr, so that $(…) never swallows the reason of a failure.
say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

die() {
  say "$*"
  return 1
}

# step COMMAND…: the unit of progress that the log and the reason of a failure name.
step() {
  STEP=$1
  say "== $1"
  publish
  "$@"
}

# retry TRIES PAUSE COMMAND…: what the last try printed stays the last line of the log.
retry() {
  local tries=$1 pause=$2
  shift 2
  until "$@"; do
    ((--tries > 0)) || return 1
    publish
    sleep "$pause"
  done
}

AN_INSTANCE='i-[0-9a-f]{8,32}' # an extended regular expression, as expected takes it

# expected PATTERN VALUE: prints the value when the pattern fits the whole of it. Nothing from metadata or AWS's answers is used otherwise.
expected() {
  if [[ $2 =~ ^($1)$ ]]; then
    echo "$2"
  else
    die "not like $1: '${2:0:100}'"
  fi
}

# imds PATH PATTERN: IMDSv2 only. Without an answer, with a 404, or with another answer than expected it prints nothing and fails.
imds() {
  local token value
  token=$(curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$IMDS/api/token") &&
    token=$(expected '[A-Za-z0-9+/=_-]+' "$token") &&
    value=$(curl -sf -m 5 -H "X-aws-ec2-metadata-token: $token" "$IMDS/meta-data/$1") &&
    expected "$2" "$value"
}

# A value of an env file without its quotes, and without a comment behind it.
UNQUOTE="s/[[:space:]]+$//;s/^'(.*)'$/\\1/;t;s/^\"(.*)\"$/\\1/;Tu;s/\\\\(.)/\\1/g;b;:u;s/ #.*//"

# credentials that the secret and the node's configuration hold, one a line: as they read, and as they are quoted.
credentials() {
  jq -r 'to_entries[]|select(.key|test("PASSWORD|SECRET|KEY|LICENSE")).value' <<<"$SECRET"
  sed -nE 's/^[A-Z_]*(PASSWORD|SECRET|KEY|LICENSE)[A-Z_]*=//p' "$OPENVIDU"/config/{,*/,*/*/}*.env | sed -E "p;$UNQUOTE"
} 2>/dev/null

# redact: copies its input without credentials. A node that holds some and can read none lets the names of its steps pass, no more.
redact() {
  local known
  known=$(credentials) || : # some files are there
  if [[ -z $known && -e $STATE/trusted ]]; then
    grep ' == ' || :
  else
    # The empty line keeps the first file from being empty, which awk could not tell from the second.
    # The longest first: one may be part of another.
    awk 'NR==FNR{if(length>5)s[n++]=$0;next}
{for(j=0;j<n;j++)while(i=index($0,s[j]))$0=substr($0,1,i-1)"***"substr($0,i+length(s[j]));print}' \
      <(echo && awk '{print length,$0}' <<<"$known" | sort -rn | cut -d ' ' -f 2-) -
  fi
}

# publish: the log, which the agent sends as it is written, takes whole lines without credentials. That it cannot is no reason to fail.
publish() {
  (
    umask 077
    flock 9
    from=$(cat "$RAW.next") || from=1
    to=$(wc -l <"$RAW")
    sed -n "$from,${to}p" "$RAW" | redact >>"$LOG" && echo $((to + 1)) >"$RAW.next"
  ) 2>/dev/null 9>>"$RAW.lock" || :
}

# answered FINAL COMMAND…: did it get an answer? An error that the pattern fits is one too: REFUSED.
answered() {
  local words
  REFUSED=
  words=$("${@:2}" 2>&1) && return 0 # a return without a number gives, below a trap, the status before the trap
  say "$words"
  [[ $words =~ $1 ]] && REFUSED=yes
}

# signal STATUS REASON: tells the stack that is being created, and a rolling update that waits for this master. Nobody asks again, so it
# is repeated for 10 minutes. An address that expired or a stack that is gone refuses for ever.
signal() {
  retry 60 10 answered ' 40[34]' curl -sSf -m 20 -X PUT -H 'Content-Type:' --data-binary \
    "{\"Status\":\"$1\",\"Reason\":\"$2\",\"UniqueId\":\"$NODE\",\"Data\":\"$INSTANCE_ID\"}" "$WAIT_URL" ||
    say 'WARNING: the stack was not told'
  [[ -z $REFUSED ]] || say 'no stack creation waits'
  [[ -n ${GROUP:-} ]] || return 0
  retry 60 10 answered ValidationError aws cloudformation signal-resource --stack-name "$STACK" --logical-resource-id "$GROUP" \
    --unique-id "$INSTANCE_ID" --status "$1" || say 'WARNING: the update was not told'
  [[ -z $REFUSED ]] || say 'no stack update waits'
}

# printable BYTES: of each line that many, without control characters. An argument has 128 KiB at most, a reason far less.
printable() { tr -cd '[:print:]\n' | cut -b "-$1"; }

# The end of what was printed, in CloudWatch Logs, outlives the instance, whatever became of the agent.
ship_log() {
  local to=(--log-group-name "$LOG_GROUP" --log-stream-name "$NODE/$INSTANCE_ID")
  aws logs create-log-stream "${to[@]}"
  aws logs put-log-events "${to[@]}" --log-events \
    "$(tail -n 40 "$RAW" | tr -d '\000' | redact | printable 1000 | jq -Rs '[{timestamp:(now*1000|floor),message:.}]')"
}

# failed CODE LINE COMMAND: the ERR trap. The reason names step, function and line of the source, and the last two lines that were printed.
failed() {
  ((BASH_SUBSHELL == 0)) || exit "$1"
  trap - ERR
  set +e
  local reason line=$2
  [[ ${BASH_SOURCE[1]} != "$LOADED" ]] || COMMON_LINES=$LIBRARY_LINES
  ((line <= COMMON_LINES)) || line=$((line - COMMON_LINES))
  reason="$NODE $INSTANCE_ID: $STEP failed at line $line of ${FUNCNAME[1]} (${3:0:100}, code $1): $(tail -n 40 "$RAW" | tr -d '\000' | redact | printable 300 | grep . | tail -n 2)"
  reason=$(tr -d '\\"' <<<"$reason" | tr '\n' ' ' | printable 900)
  say "$reason"
  publish
  signal FAILURE "$reason"
  ship_log
  on_failure
  exit 1
}

# unit NAME VERB: the rest of [Service] comes from stdin.
unit() {
  cat - >"/etc/systemd/system/$1.service" <<UNIT
[Unit]
Description=OpenVidu node, $2
Wants=network-online.target
After=network-online.target docker.service

[Install]
WantedBy=multi-user.target

[Service]
ExecStart=$SELF $2
$3
UNIT
  systemctl enable -q --now --no-block "$1"
}

# cloud-init runs this once; from then on systemd runs the node, at every boot.
install_units() {
  mkdir -p "$STATE"
  install -m 700 "$0" "$SELF"
  role_units
  unit openvidu-node boot $'Type=oneshot\nRemainAfterExit=yes\nTimeoutStartSec=infinity\nRestart=on-failure\nRestartSec=60'
}

identify() {
  INSTANCE_ID=$(retry 60 5 imds instance-id "$AN_INSTANCE")
  # shellcheck disable=SC1091
  OS=$(. /etc/os-release && echo "$ID-$VERSION_ID")
  case $OS in
    amzn-2023* | ubuntu-22.04 | ubuntu-24.04) ;;
    *) die "$OS is not supported: use Amazon Linux 2023, Ubuntu 22.04 or 24.04" ;;
  esac
}

install_packages() {
  if [[ $OS == amzn* ]]; then
    dnf -y -q --allowerasing install "$@" # an image may bring an older Docker
  else
    apt_settled
    apt-get -qq update && apt-get -qq install "$@"
  fi
}

# apt_settled: what was cut off is finished, and apt-get, OpenVidu's installer's too, waits while unattended-upgrades installs. For the lock
# of the package lists it cannot wait; there the tries help. Its log has no progress bars.
apt_settled() {
  export DEBIAN_FRONTEND=noninteractive
  echo 'DPkg::Lock::Timeout "600"; DPkg::Use-Pty "0";' >/etc/apt/apt.conf.d/90openvidu
  apt-get -qq check >/dev/null 2>&1 || dpkg --force-confdef --force-confold --configure -a </dev/null || :
}

# install_tools COMMAND:PACKAGE…: what the image lacks, no more. Ubuntu 24.04 has no package of the AWS CLI, hence the snap.
install_tools() {
  local tool missing=()
  for tool in jq:jq "$@"; do
    command -v "${tool%:*}" >/dev/null || missing+=("${tool#*:}")
  done
  if [[ $OS == amzn* ]]; then
    command -v aws >/dev/null || missing+=(awscli-2)
  else
    command -v aws >/dev/null || retry 20 15 snap install aws-cli --classic
  fi
  ((${#missing[@]} == 0)) || retry 20 15 install_packages "${missing[@]}"
}

# The library is what EC2's limit keeps out of the user data: parameters of Systems Manager hold it. Root runs it, hence the checksum,
# which nobody can change on a running instance.
known_library() { sha256sum -c --status <<<"$LIBRARY_SHA256  $LOADED" 2>/dev/null; }

fetch_library() {
  local part
  for ((part = 1; part <= LIBRARY_PARTS; part++)); do
    aws ssm get-parameter --name "$LIBRARY/$part" --query Parameter.Value || return
  done | base64 -d | gunzip >"$LOADED" && sync "$LOADED"
}

load_library() {
  known_library || {
    retry 30 10 fetch_library || return
    known_library || die "the boot library in $LIBRARY has the SHA-256 $(sha256sum <"$LOADED"), not $LIBRARY_SHA256" || return
    # shellcheck source=/dev/null
    . "$LOADED"
  }
  install_services
}

main() {
  # shellcheck source=/dev/null
  ! known_library || . "$LOADED"
  # OpenVidu's own scripts and whoever calls them want the words for themselves.
  if [[ ${1:-} == tool ]]; then
    "${@:2}"
    return
  fi
  umask 077
  exec >>"$RAW" 2>&1
  umask 022 # what OpenVidu installs is read by its services' users
  # A service whose library is gone: the boot loads it again.
  [[ -z ${1:-} ]] || declare -F "$1" >/dev/null || {
    say "no library, no $1"
    exit 1
  }
  trap 'failed $? $LINENO "$BASH_COMMAND"' ERR
  case ${1:-} in
    '') install_units ;;
    *) "$1" ;;
  esac
  publish
}
