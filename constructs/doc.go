// Package constructs is a library of AWS CDK constructs for OpenVidu High Availability: a LiveKit-compatible video
// platform on four Master Nodes that keep their private IP and their data, and a fleet of Media Nodes that scales on load
// and never cuts a call.
//
// A cluster is a [MasterCluster], a [MediaFleet] and a [MainLoadBalancer]; [TurnTlsEndpoint] and [RecordingVolumes] are
// made when they are wanted other than by default.
//
// A construct makes everything inside its own scope, but for three things that stand once in a stack, however many
// clusters it has: the mapping OpenViduBoot with the boot scripts, the condition OpenViduInChina for what that partition
// lacks, and the parameter by which the CDK looks up the newest Amazon Linux, where no image is given. They hold no name, no
// account and no region.
//
// Ports, flags and secret keys are those of OpenVidu 3.9's documentation.
package constructs
