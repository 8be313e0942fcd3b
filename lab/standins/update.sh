#!/bin/sh
# OpenVidu's public update script, step by step: reads the installed version, refuses a release that it has no path to, asks about an older Docker or Compose
# unless told not to, stops OpenVidu, runs the updater's image on /opt/openvidu, saves the version in the cloud's secret, runs the post-update script. It does not start OpenVidu.
set -eu
DOCKER_VERSION="${DOCKER_VERSION:-29.5.3}"
OPENVIDU_VERSION="${OPENVIDU_VERSION:-@RELEASE@}"
PREFIX=/opt/openvidu
path='3.7.0 3.8.0 3.9.0 3.10.0'

older() { [ "$1" != "$2" ] && [ "$(printf '%s\n' "${1#v}" "${2#v}" | sort -V | head -n 1)" = "${1#v}" ]; }
if [ "${OPENVIDU_SKIP_DOCKER_VERSION_CHECK:-}" != true ]; then
  current=$(docker --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
  if older "$current" "$DOCKER_VERSION"; then
    printf 'WARNING: Docker version %s is older than the recommended version %s.\nContinue anyway? [Y/n]: ' "$current" "$DOCKER_VERSION"
    read -r answer
    [ "$answer" != n ] || exit 1
  fi
fi
installed=$(grep version "$PREFIX/deployment-info.yaml" | cut -d: -f2 | tr -d ' "')
if [ "$installed" != "$OPENVIDU_VERSION" ]; then
  next=$(echo "$path" | tr ' ' '\n' | grep -A 1 -x "$installed" | sed -n 2p)
  [ "$next" = "$OPENVIDU_VERSION" ] || {
    echo "ERROR: No upgrade path defined for version $installed"
    exit 1
  }
fi
echo 'Stopping OpenVidu service...'
systemctl stop openvidu
docker info >/dev/null 2>&1 || systemctl start docker
image=docker.io/openvidu/openvidu-updater:$OPENVIDU_VERSION
docker pull "$image"
TMP_DIR=$(mktemp -d)
environment=
for pair in MINIO_SERVER=minio MONGO_SERVER=mongo REDIS_SERVER=redis CADDY_SERVER_PRO=openvidu-pro-caddy OPENVIDU_OPERATOR=openvidu-operator \
  OPENVIDU_SERVER_PRO=openvidu-server-pro LIVEKIT_INGRESS_SERVER=ingress LIVEKIT_EGRESS_SERVER=egress; do
  environment="$environment -e ${pair%%=*}_IMAGE=docker.io/openvidu/${pair#*=}:$OPENVIDU_VERSION"
done
# shellcheck disable=SC2048,SC2086 # as the public one has it
docker run -i --network=host -v "$PREFIX:$PREFIX" -v "$TMP_DIR:$TMP_DIR" -e "OPENVIDU_VERSION=$OPENVIDU_VERSION" \
  -e "LAB_OPTIONS=$(cat /etc/lab/openvidu 2>/dev/null || :)" $environment "$image" update "--install-prefix=$PREFIX" "--post-update-script=$TMP_DIR/post-update.sh" $*
[ ! -f /usr/local/bin/store_secret.sh ] || /usr/local/bin/store_secret.sh save OPENVIDU_VERSION "$OPENVIDU_VERSION"
[ ! -f "$TMP_DIR/post-update.sh" ] || "$TMP_DIR/post-update.sh"
