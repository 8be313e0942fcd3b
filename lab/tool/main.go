// Command tool is everything of the lab that runs inside a node or a container, one static program under many names.
//
// Nodes find it as sleep and timeout (the lab's time), aws (a client of the loaded AWS CLI) and as the commands before which the power
// can be cut. Images of the lab's registry have it as the entry point of what stands in for OpenVidu's services.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// roles by the name that the program is called by, or by its first argument.
var roles map[string]func(arguments []string) error

func main() {
	roles = map[string]func(arguments []string) error{
		"sleep": sleep, "timeout": timeout, "aws": awsClient, "hang": hang,
		"install": install, "update": update, "redis": redisServer, "sentinel": sentinel, "caddy": caddy, "operator": operator,
		"ask": ask, "store": store, "carrier": carrier, "livekit": livekit,
	}
	for _, command := range cuttable {
		roles[command] = cutBefore(command)
	}
	name, arguments := filepath.Base(os.Args[0]), os.Args[1:]
	if roles[name] == nil && len(arguments) > 0 {
		name, arguments = arguments[0], arguments[1:]
	}
	role := roles[name]
	if role == nil {
		fmt.Fprintln(os.Stderr, "the lab's tool does not know", name)
		os.Exit(2)
	}
	if err := role(arguments); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, err)
		os.Exit(1)
	}
}
