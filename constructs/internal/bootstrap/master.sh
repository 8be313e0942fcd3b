# A Master Node: its slot gives it a fixed private IP (a network interface) and its data (a volume).
# shellcheck shell=bash disable=SC2016,SC2034,SC2153 # jq has names of its own; others come from the header and common.sh, or are used there

COMMON_LINES=$((LINENO - 4)) # before this script

# The launch template of the slot says all of this, nothing that can be changed on a running instance: a failure of any step tells it.
NODE=master-$SLOT

role_units() { :; } # its services need the library: install_services

on_failure() { :; } # systemd tries again: a master is bound to its slot, another instance would fare no better

boot() {
  step identify
  step install_tools mkfs.xfs:xfsprogs
  step load_library
  step ship_logs
  step attach_fixed_ip
  step attach_data_volume
  if [[ ! -e $STATE/installed ]]; then
    step read_secret
    if ! mountpoint -q "$OPENVIDU"; then
      step download_installer master
      step install_docker
      step install_master
      step adopt_volume
    fi
  fi
  step mount_volume
  say "settings $REVISION"
  step apply_secret
  step before_start
  step start_openvidu
  step healthy http://127.0.0.1:7880/health/caddy
  step signal SUCCESS ready
}

main "$@"
