package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// flags of OpenVidu's installer, as name -> value.
func flags(arguments []string) map[string]string {
	all := map[string]string{}
	for _, argument := range arguments {
		name, value, _ := strings.Cut(strings.TrimPrefix(argument, "--"), "=")
		all[name] = value
	}
	return all
}

// install is the container of the installer's image: it writes the files of a node and the script that puts them in place. That images, names
// of files and their keys are these follows OpenVidu's public installers, templates and documentation; what is in its image is not public.
func install(arguments []string) error {
	given := flags(arguments)
	role := strings.TrimSuffix(given["node-role"], "-node")
	if slices.Contains(options(), "talks") { // of what it was given, in a line that CloudWatch's agent takes for an error
		fmt.Println("WARN error free so far:", strings.Join(arguments, " "))
	}
	if slices.Contains(options(), "stuck") {
		time.Sleep(time.Hour)
	}
	out := "/output/installation-scripts/openvidu"
	put := func(name string, mode os.FileMode, lines ...string) error {
		name = filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		return os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), mode)
	}
	var node []string
	for i, ip := range strings.Split(given["master-node-private-ip-list"], ",") {
		node = append(node, fmt.Sprintf("MASTER_NODE_%d_PRIVATE_IP=%s", i+1, ip))
	}
	node = append(node, "REDIS_PASSWORD="+given["redis-password"])
	files := []error{
		put("files/deployment-info.yaml", 0o644, fmt.Sprintf("version: %q", os.Getenv("OPENVIDU_VERSION")), fmt.Sprintf("environment: %q", given["environment"]), `type: "ha"`, fmt.Sprintf("node-role: %q", given["node-role"])),
		put("files/data/origin", 0o644, "fresh"),
		put("finish-message.txt", 0o644, "OpenVidu was installed"),
		put("private-ip.txt", 0o644, given["private-ip"]),
	}
	for i := range 200 {
		files = append(files, put(fmt.Sprint("files/data/object-", i+1), 0o644, fmt.Sprint(i+1)))
	}
	if role == "master" {
		cluster := []string{"# OpenVidu"}
		for _, setting := range []string{"DOMAIN_NAME=domain-name", "OPENVIDU_RTC_ENGINE=rtc-engine", "OPENVIDU_PRO_LICENSE=openvidu-pro-license", "LIVEKIT_API_KEY=livekit-api-key",
			"LIVEKIT_API_SECRET=livekit-api-secret", "LIVEKIT_TURN_DOMAIN_NAME=turn-domain-name", "ENABLED_MODULES=enabled-modules", "MONGO_ADMIN_USERNAME=mongo-admin-user",
			"MONGO_ADMIN_PASSWORD=mongo-admin-password", "MONGO_REPLICA_SET_KEY=mongo-replica-set-key", "MINIO_ACCESS_KEY=minio-access-key", "MINIO_SECRET_KEY=minio-secret-key",
			"DASHBOARD_ADMIN_USERNAME=dashboard-admin-user", "DASHBOARD_ADMIN_PASSWORD=dashboard-admin-password", "GRAFANA_ADMIN_USERNAME=grafana-admin-user", "GRAFANA_ADMIN_PASSWORD=grafana-admin-password",
			"EXTERNAL_S3_ENDPOINT=", "EXTERNAL_S3_REGION=", "EXTERNAL_S3_PATH_STYLE_ACCESS=", "EXTERNAL_S3_BUCKET_APP_DATA=", "EXTERNAL_S3_BUCKET_CLUSTER_DATA=", "EXTERNAL_MONGO_URI=", "CUSTOM="} {
			key, flag, _ := strings.Cut(setting, "=")
			cluster = append(cluster, key+"="+given[flag])
		}
		cluster[len(cluster)-1] = "CUSTOM=stays"
		files = append(files,
			put("files/config/cluster/openvidu.env", 0o600, cluster...),
			put("files/config/cluster/master_node/meet.env", 0o600, "MEET_INITIAL_ADMIN_USER=none", "MEET_INITIAL_ADMIN_PASSWORD="+given["meet-initial-admin-password"], "MEET_INITIAL_API_KEY="+given["meet-initial-api-key"]),
			put("files/config/node/master_node.env", 0o600, node...))
	} else {
		files = append(files, put("files/config/node/media_node.env", 0o600, append(node, "MEDIA_NODE_PRIVATE_IP="+given["private-ip"], "MEDIA_NODE_PUBLIC_IP="+given["public-ip"])...))
	}
	complete := []string{
		"cp -a files/docker-compose.yaml files/deployment-info.yaml /opt/openvidu/",
		"cp openvidu.service /etc/systemd/system/openvidu.service",
		"cp 50-openvidu.conf /etc/sysctl.d/50-openvidu.conf",
		"systemctl daemon-reload",
		"systemctl enable -q openvidu",
	}
	if slices.Contains(options(), "half") { // it ends with success all the same
		complete = nil
	}
	script := append([]string{"#!/bin/sh", "set -eu", "mkdir -p /opt/openvidu", "cp -a files/data files/config /opt/openvidu/"}, complete...)
	files = append(files,
		put("install_ov_"+role+"_node.sh", 0o644, script...),
		put("files/docker-compose.yaml", 0o644, compose(role)),
		put("50-openvidu.conf", 0o644, "net.core.somaxconn = 4096"),
		put("openvidu.service", 0o644, "[Unit]", "Description=OpenVidu", "Requires=docker.service", "After=docker.service", "[Service]", "Type=oneshot", "RemainAfterExit=yes", "TimeoutStartSec=0",
			"WorkingDirectory=/opt/openvidu", "ExecStart=/usr/local/bin/docker-compose up -d --remove-orphans", "ExecStop=/usr/local/bin/docker-compose down", "[Install]", "WantedBy=multi-user.target"))
	for _, err := range files {
		if err != nil {
			return err
		}
	}
	return nil
}

// options of a scenario: words of /etc/lab/openvidu, which the installer hands on.
func options() []string { return strings.Fields(os.Getenv("LAB_OPTIONS")) }

// option NAME=VALUE of a scenario, or the default.
func option(name, fallback string) string {
	for _, word := range options() {
		if key, value, ok := strings.Cut(word, "="); ok && key == name {
			return value
		}
	}
	return fallback
}

// compose is the Compose file of a role.
func compose(role string) string {
	var b strings.Builder
	b.WriteString("services:\n")
	service := func(name, image, command string, environment []string, volumes ...string) {
		fmt.Fprintf(&b, "  %[1]s:\n    image: %[2]s\n    container_name: %[1]s\n    network_mode: host\n    restart: %[3]s\n    command: [%[4]s]\n", name, image, option("restart", "unless-stopped"), command)
		if signal := option("stop_signal", ""); signal != "" {
			fmt.Fprintf(&b, "    stop_signal: %s\n", signal)
		}
		b.WriteString("    env_file:\n")
		for _, file := range environment {
			fmt.Fprintf(&b, "      - ./config/%s\n", file)
		}
		b.WriteString("    volumes:\n")
		for _, volume := range volumes {
			fmt.Fprintf(&b, "      - %s\n", volume)
		}
	}
	image := func(variable string) string { return os.Getenv(variable + "_IMAGE") }
	if role == "media" {
		env := []string{"node/media_node.env"}
		calls := []string{"/etc/lab:/etc/lab", "/var/lib/lab-calls:/var/lib/lab-calls"}
		if slices.Contains(options(), "livekit") {
			service("openvidu", image("OPENVIDU_SERVER_PRO"), "livekit", env, calls...)
		} else {
			service("openvidu", image("LIVEKIT_INGRESS_SERVER"), "carrier, openvidu, '7880', '5349'", env, calls...)
		}
		service("ingress", image("LIVEKIT_INGRESS_SERVER"), "carrier, ingress, '9092', '1945', '8080'", env, calls...)
		service("egress", image("LIVEKIT_EGRESS_SERVER"), "carrier, egress, '9093'", env, calls...)
		return b.String()
	}
	env := []string{"cluster/openvidu.env", "cluster/master_node/meet.env", "node/master_node.env"}
	service("redis", image("REDIS_SERVER"), "redis", env, "./data/redis:/data")
	service("redis-sentinel", image("REDIS_SERVER"), "sentinel", env, "./data/sentinel:/data")
	service("minio", image("MINIO_SERVER"), "store, '9100', '9101'", env, "./data/minio:/data")
	service("mongo", image("MONGO_SERVER"), "store, '20000'", env, "./data/mongo:/data")
	service("operator", image("OPENVIDU_OPERATOR"), "operator", env, "/etc/lab:/etc/lab", "./data/operator:/data")
	service("caddy", image("CADDY_SERVER_PRO"), "caddy", env, "./data/caddy:/data")
	return b.String()
}

// update is the container of the updater's image: it rewrites /opt/openvidu for its release and leaves a script for after the update.
func update(arguments []string) error {
	given := flags(arguments)
	prefix, release := given["install-prefix"], os.Getenv("OPENVIDU_VERSION")
	if slices.Contains(options(), "update-fails") {
		return fmt.Errorf("ERROR: no migration from the installed release to %s", release)
	}
	info, err := os.ReadFile(prefix + "/deployment-info.yaml")
	if err != nil {
		return err
	}
	lines := strings.Split(string(info), "\n")
	role := "master"
	for i, line := range lines {
		if strings.HasPrefix(line, "version:") {
			lines[i] = fmt.Sprintf("version: %q", release)
		}
		if strings.Contains(line, "media-node") {
			role = "media"
		}
	}
	if err := os.WriteFile(prefix+"/docker-compose.yaml", []byte(compose(role)), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(given["post-update-script"], []byte("#!/bin/sh\necho updated\n"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(prefix+"/deployment-info.yaml", []byte(strings.Join(lines, "\n")), 0o644)
}
