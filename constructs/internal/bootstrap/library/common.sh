# What the libraries of Master Nodes and Media Nodes share: the work that comes after the AWS CLI. It is loaded by the user data.
# shellcheck shell=bash disable=SC2016,SC2034,SC2153,SC2154 # jq has names of its own; others come from the header and the user data

# Who publishes what: Docker Docs, Install Docker Engine on CentOS, and on Ubuntu; Amazon CloudWatch User Guide, Verifying the signature of the
# CloudWatch agent package.
DOCKER_RPM_KEY=060A61C51B558A7F742B77AAC52FEB6B621E9F35
DOCKER_APT_KEY=9DC858229FC7DD38854AE2D88D81803C0EBFCD88
AGENT_KEY=937616F3450B7D806CBD9725D58167303B789C72

# trusted_key URL FILE FINGERPRINT: the file takes the key, if it holds that one and no other.
trusted_key() {
  local found
  install -d -m 700 "$STATE/gpg"
  retry 20 15 download "$1" "$2"
  found=$(gpg --homedir "$STATE/gpg" --batch -q --show-keys --with-colons "$2" | awk -F: '$1=="pub"{p=1}p&&$1=="fpr"{print $10;p=0}') || :
  [[ $found == "$3" ]] || die "$1 holds the key '${found//$'\n'/ }', not $3"
}

# signed_agent BUCKET: Amazon Linux's own repository signs its packages.
signed_agent() {
  local from
  from=$1/ubuntu/$(dpkg --print-architecture)/latest/amazon-cloudwatch-agent.deb
  trusted_key "$1/assets/amazon-cloudwatch-agent.gpg" "$STATE/agent.asc" "$AGENT_KEY" && retry 3 15 download "$from" "$package" &&
    retry 3 15 download "$from.sig" "$package.sig" && gpg --homedir "$STATE/gpg" --batch --yes -q --dearmor -o "$STATE/agent.gpg" "$STATE/agent.asc" &&
    gpgv -q --keyring "$STATE/agent.gpg" "$package.sig" "$package" # gpg itself would start a daemon
}

# start_agent: CloudWatch's own agent sends this log and OpenVidu's errors, line by line, and how full the disks are. The
# node does its work without it too.
start_agent() {
  local agent=/opt/aws/amazon-cloudwatch-agent config=/etc/openvidu-agent.json package=amazon-cloudwatch-agent
  if [[ ! -d $agent ]]; then
    [[ $OS == amzn* ]] || {
      package=$STATE/agent.deb
      signed_agent "https://amazoncloudwatch-agent-$REGION.s3.$REGION.$URL_SUFFIX" || return
    }
    retry 3 15 install_packages "$package" || return
  fi
  jq -n --arg group "$LOG_GROUP" --arg node "$NODE/$INSTANCE_ID" --arg cluster "$CLUSTER" --arg log "$LOG" '
def logs($path;$name): {file_path:$path,log_group_name:$group,log_stream_name:"\($node)/\($name)"};
{type:"exclude",expression:"://[^/ ]*:[^/ ]*@|access_token="} as $private|
{agent:{omit_hostname:true},
logs:{logs_collected:{files:{collect_list:[logs($log;"boot"),
logs("/var/log/openvidu/nodes_errors.log";"nodes_errors")+{filters:[$private]},
logs("/var/lib/docker/containers/*/*-json.log";"errors")+{publish_multi_logs:true,filters:[{type:"include",expression:"(?i)error|fatal|panic"},
$private]}]}}},
metrics:{namespace:"OpenVidu",aggregation_dimensions:[["Cluster"]],metrics_collected:{disk:{measurement:["used_percent"],
resources:["/","/opt/openvidu"],drop_device:true,append_dimensions:{Cluster:$cluster}}}}}' >"$config"
  "$agent/bin/amazon-cloudwatch-agent-ctl" -a fetch-config -m ec2 -s -c "file:$config"
}

# A node without an agent is better than none.
ship_logs() { { retry 5 5 sweep && start_agent; } || say 'WARNING: no CloudWatch agent; only failures and drains are logged outside of the node'; }

# bounded SECONDS COMMAND…: also what ignores SIGTERM ends. What is left behind holds a file open, not a pipe.
bounded() {
  local code=0
  timeout -k 30 "$@" || code=$?
  ((code != 124 && code != 137)) || say "it did not end within $1 s"
  return "$code"
}

download() { curl -fsSL --proto '=https' --tlsv1.2 -m 300 -o "$2" "$1"; }

# The installer names the Docker that its release wants, and refuses an older one, as Amazon's own is. Where there is none it would run
# what get.docker.com answers, which does not know Amazon Linux, and trusts whatever key comes with it.
install_docker() {
  local wanted have version
  block_metadata
  wanted=$(sed -nE 's/^(export )?DOCKER_VERSION="?\$\{DOCKER_VERSION:-([0-9.]+)\}"?$/\2/p' "$STATE/installer.sh")
  [[ $wanted =~ ^[0-9]+(\.[0-9]+){2}$ ]] || { wanted='' && say 'WARNING: the installer names no version of Docker: the newest is installed'; }
  if have=$(docker --version 2>/dev/null); then
    have=${have#Docker version }
    version=$(printf '%s\n' "$wanted" "${have%%,*}" | sort -V | tail -n 1)
    if [[ $version == "${have%%,*}" ]]; then
      systemctl enable -q --now docker
      return
    fi
  fi
  if [[ $OS == amzn* ]]; then
    install_tools gpg:gnupg2-minimal
    trusted_key https://download.docker.com/linux/centos/gpg /etc/openvidu-docker.asc "$DOCKER_RPM_KEY"
    cat >/etc/yum.repos.d/docker-ce.repo <<'REPO'
[docker-ce-stable]
baseurl=https://download.docker.com/linux/centos/9/$basearch/stable
gpgcheck=1
gpgkey=file:///etc/openvidu-docker.asc
REPO
    version=${wanted:+-$wanted}
  else
    install_tools gpg:gnupg
    install -d -m 755 /etc/apt/keyrings
    # Under the names that Docker's own script gives them: an image may bring both.
    trusted_key https://download.docker.com/linux/ubuntu/gpg /etc/apt/keyrings/docker.asc "$DOCKER_APT_KEY"
    # shellcheck disable=SC1091
    version=$(. /etc/os-release && echo "$VERSION_CODENAME")
    echo "deb [signed-by=/etc/apt/keyrings/docker.asc] https://download.docker.com/linux/ubuntu $version stable" >/etc/apt/sources.list.d/docker.list
    version=${wanted:+=5:$wanted*}
  fi
  retry 20 15 install_packages docker-ce{,-cli}"$version" containerd.io
  systemctl enable -q --now docker
}

# block_metadata: where it is asked for, containers get no answer from the instance metadata, and so no credentials of the node's role.
# They share the node's network: what tells them apart is their control group, below a slice that Docker puts them into. nft
# looks the slice up once, so it is there before and stays. What comes over a bridge is forwarded.
block_metadata() {
  local daemon=/etc/docker/daemon.json was='{}'
  [[ $BLOCK_CONTAINER_METADATA == true ]] || return 0
  install_tools nft:nftables
  cat >/etc/openvidu-metadata.nft <<'NFT'
table inet openvidu_metadata
delete table inet openvidu_metadata
table inet openvidu_metadata {
chain refuse {
ip daddr 169.254.169.254 reject
ip6 daddr fd00:ec2::254 reject
}
chain output {
type filter hook output priority 0
socket cgroupv2 level 1 "openvidu.slice" jump refuse
}
chain forward {
type filter hook forward priority 0
jump refuse
}
}
NFT
  cat >/etc/systemd/system/openvidu-metadata.service <<UNIT
[Unit]
Description=OpenVidu node, no instance metadata for containers
Requires=openvidu.slice
After=openvidu.slice nftables.service
Before=docker.service
[Install]
RequiredBy=docker.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$(command -v nft) -f /etc/openvidu-metadata.nft
UNIT
  systemctl daemon-reload
  systemctl enable -q --now openvidu-metadata
  [[ ! -s $daemon ]] || was=$(<"$daemon")
  mkdir -p "${daemon%/*}"
  jq '."cgroup-parent"="openvidu.slice"' <<<"$was" >"$daemon.new"
  cmp -s "$daemon.new" "$daemon" && return
  mv "$daemon.new" "$daemon"
  ! systemctl -q is-active docker || systemctl restart docker # an image may bring it
}

fetch_secret() {
  SECRET=$(aws secretsmanager get-secret-value --secret-id "$SECRET_ARN" --query SecretString) && : >"$STATE/trusted"
}

read_secret() { retry 30 10 fetch_secret; }

# secret KEY: its value; a key that is missing or empty is an error.
secret() {
  jq -er --arg k "$1" '.[$k]|select(.!=null and .!="")' <<<"$SECRET" ||
    die "secret $SECRET_ARN holds no $1"
}

fetch_installer() {
  download "$INSTALLER_URL/$RELEASE/install_ov_$1_node.sh" "$STATE/installer.sh" && bash -n "$STATE/installer.sh" &&
    { grep -q . "$STATE/installer.sh" || die 'the download is empty'; }
}

containers() { ! command -v docker >/dev/null || docker ps -aq --no-trunc; }

# sweep: the installer leaves a container and files, which hold all that it was told. Whatever container was not there before it goes.
sweep() {
  local ids
  [[ -e $STATE/containers ]] || return 0
  ids=$(containers) && { grep -vxFf "$STATE/containers" <<<"$ids" || :; } | xargs -r docker rm -fv >/dev/null &&
    rm -rf "$STATE"/{tmp,containers}
}

# complete: an installer can end with success and have done half of its work.
complete() {
  local file
  for file in "$OPENVIDU"/{docker-compose*.y*ml,deployment-info.yaml} /etc/systemd/system/openvidu.service; do
    [[ -s $file ]] || {
      die "the installation is incomplete: no $file"
      return
    }
  done
}

# A half-finished try is removed first: on the root disk, never on a volume.
try_installer() {
  local code=0 ids
  ! mountpoint -q "$OPENVIDU" || return
  [[ -e $STATE/containers ]] || { ids=$(containers) && echo "$ids" >"$STATE/containers"; } || return
  rm -rf --one-file-system "$OPENVIDU" "$STATE/tmp"
  mkdir -m 700 "$STATE/tmp"
  TMPDIR=$STATE/tmp bounded 900 bash "$STATE/installer.sh" "$@" || code=$?
  sweep || return
  ((code == 0)) || return "$code"
  complete
}

# agent enable|disable: also for the boots to come.
agent() { systemctl "$1" -q --now amazon-cloudwatch-agent 2>/dev/null || :; }

# same_installer ROLE: every scale-out runs what OpenVidu's server answers, as root. The first Master Node of a release noted what that was.
same_installer() {
  local was now
  now=$(sha256sum <"$STATE/installer.sh")
  was=$(jq -r --arg k "INSTALLER_${1^^}_$RELEASE" '.[$k]//""' <<<"$SECRET")
  [[ -n $was && $was != "${now%% *}" ]] || return 0
  say "WARNING: the installer of $1 nodes of $RELEASE has the SHA-256 ${now%% *}; noted is $was"
  aws cloudwatch put-metric-data --namespace OpenVidu --metric-name InstallerChanged --dimensions "Cluster=$CLUSTER" --value 1 || :
  [[ $REQUIRE_SAME_INSTALLER != true ]] ||
    die "RequireSameInstaller refuses it; if OpenVidu published $RELEASE anew, take INSTALLER_${1^^}_$RELEASE out of the secret"
}

# download_installer master|media: the version is the cluster's, not this template's.
download_installer() {
  RELEASE=$(secret OPENVIDU_VERSION)
  [[ $RELEASE =~ ^[0-9]+(\.[0-9]+){2}$ ]] || die "OPENVIDU_VERSION '$RELEASE' is not like 3.9.0"
  note_installers
  retry 10 15 fetch_installer "$1"
  same_installer "$1"
}

# install_openvidu master|media FLAG…
install_openvidu() {
  local role=$1
  shift
  [[ $OS == amzn* ]] || apt_settled
  local additional
  IFS=, read -ra additional <<<"$INSTALL_FLAGS"
  agent disable # what the installer's container prints is not for CloudWatch Logs
  retry 3 30 try_installer --no-tty --install --environment=aws --deployment-type=ha "--node-role=$role-node" \
    "--master-node-private-ip-list=$(IFS=, && echo "${MASTER_IPS[*]}")" "$@" "${additional[@]}"
  agent enable
  systemctl disable -q openvidu || : # it need not be enabled: openvidu-node starts it
}

# Lines of whoever deploys, between installation and start. A process that they leave behind holds a file open, not the boot.
# Docker, which starts containers again after a loss of power, waits for them from now on: start_openvidu starts it.
before_start() {
  [[ -z $BEFORE_START ]] || {
    systemctl disable -q docker.service docker.socket
    bounded 900 bash -euo pipefail -c "$BEFORE_START"
  }
}

# Quotes that bash and Docker Compose (compose-go, package dotenv) read alike: in single quotes Compose takes a backslash before the
# last quote for an escape, in double quotes it knows no escaped backtick.
QUOTED='def quoted($k): tostring|if test("^[A-Za-z0-9_.,:/@%+=-]*$") then .
elif test("[\u0000-\u0008\n-\u001f\u007f]") then error("\($k) holds a line break or a control character")
elif test("\u0027|(?<!\\\\)(\\\\\\\\)*\\\\$")|not then "\u0027\(.)\u0027"
elif test("`")|not then "\"\(gsub("(?<c>[\\\\\"$])";"\\\(.c)"))\""
else error("\($k) holds a backtick, and a single quote or a backslash at its end: bash and Docker Compose would read it differently") end;'

# put_settings FILE KEY…: lines of the file take the values of these keys from the secret, all else in it stays. As OpenVidu's own
# scripts do, it adds no key and leaves alone what is empty in the secret; but a TURN domain can be taken away.
put_settings() {
  local file=$OPENVIDU/config/$1 key made
  shift
  [[ -f $file ]] || return 0 # not in this version
  for key; do
    grep -q "^$key=" "$file" || jq -e --arg k "$key" '(.[$k]//"")==""' <<<"$SECRET" >/dev/null ||
      say "${file##*/} of this release has no $key: left out"
  done
  # Made in memory: a volume may be full, and mostly nothing changes.
  made=$(mktemp -p /run)
  jq -r --rawfile old "$file" "$QUOTED"' . as $s
|[$ARGS.positional[]|. as $k|($s[.]//"")|select(.!="" or $k=="LIVEKIT_TURN_DOMAIN_NAME")|{key:$k,value:"\($k)=\(quoted($k))"}]|from_entries as $new
|($old|rtrimstr("\n")|split("\n"))[]|$new[sub("=.*";"")]//.' --args "$@" <<<"$SECRET" >"$made" || return
  # Synced first: after a power cut the new name would stand for an empty file.
  cmp -s "$made" "$file" || { cp -p --attributes-only "$file" "$file.new" && cat "$made" >"$file.new" && sync "$file.new" && mv "$file.new" "$file"; } || return
  rm "$made"
}

# On a first boot the secret must answer; later the node starts with what it has rather than not at all.
apply_secret() {
  if [[ -e $STATE/installed ]]; then
    { retry 6 10 fetch_secret && apply_settings; } ||
      say 'WARNING: no settings from the secret; OpenVidu starts with what it has'
  else
    apply_settings
  fi
  chmod 700 "$OPENVIDU" # containers see what is below; other users of the node do not
  : >"$STATE/installed"
}

# Docker did not start at the boot when the volume came late.
start_openvidu() { retry 3 20 systemctl start docker openvidu; }

# answers TRIES URL, 5 seconds apart
answers() { retry "$1" 5 curl -sSf -m 5 -o /dev/null "$2"; }

# healthy URL…: a quarter of an hour for each, the images are pulled meanwhile. Without the first after 5 minutes OpenVidu is started once
# more, as OpenVidu's own deployments do: services may have lost a race. It carries nothing then.
healthy() {
  local url
  answers 60 "$1" || {
    say 'not healthy after 5 minutes: OpenVidu is restarted'
    systemctl restart openvidu
  }
  for url; do
    answers 180 "$url"
  done
}
