// Package constructs is a library of AWS CDK constructs for OpenVidu High Availability: a LiveKit-compatible video
// platform on four Master Nodes that keep their private IP and their data, and a fleet of Media Nodes that scales on load
// and never cuts a call.
//
// A cluster is a [MasterCluster], a [MediaFleet] and a [MainLoadBalancer]; [TurnTlsEndpoint] and [RecordingVolumes] are
// made when they are wanted other than by default. Ports, flags and secret keys are those of OpenVidu 3.9's documentation.
package constructs
