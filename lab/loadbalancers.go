package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"

	vpcnet "github.com/openvidu-ha/openvidu-ha/lab/internal/network"
)

// certificates that ACM holds: chain and key as PEM, by ARN.
var certificates sync.Map

// replacing are the properties whose change makes CloudFormation replace the resource, which the lab does not (CloudFormation
// Template Reference).
var replacing = map[string][]string{
	"AWS::ElasticLoadBalancingV2::TargetGroup":  {"Name", "Port", "Protocol", "TargetType", "VpcId"},
	"AWS::ElasticLoadBalancingV2::LoadBalancer": {"Name", "Scheme", "Type"},
	"AWS::ElasticLoadBalancingV2::Listener":     {"LoadBalancerArn"},
}

// changeLoadBalancing creates or changes a load balancer, a listener, or a target group. In a scenario without Options.LoadBalancers these are read,
// and what they are called is known, but nothing runs.
func (s *Stack) changeLoadBalancing(id, kind string, properties, old map[string]any, exists bool) error {
	for _, key := range replacing[kind] {
		if exists && !reflect.DeepEqual(properties[key], old[key]) {
			return fmt.Errorf("another %s would replace %s", key, id)
		}
	}
	hash := fmt.Sprintf("%016x", serial.Add(1))
	name := strings.ToLower(s.name + "-" + id)
	physicalId := fmt.Sprint(s.attribute(id, ""))
	switch kind {
	case "AWS::ElasticLoadBalancingV2::TargetGroup":
		spec, err := vpcnet.ParseTargetGroup(s.name, properties)
		if err != nil {
			return err
		}
		if !exists {
			physicalId = arn("elasticloadbalancing", "targetgroup/"+name+"/"+hash)
			s.set(id, "", physicalId)
			s.set(id, "TargetGroupArn", physicalId)
			s.set(id, "TargetGroupName", name)
			s.set(id, "TargetGroupFullName", "targetgroup/"+name+"/"+hash)
		}
		if !s.Options.LoadBalancers {
			return nil
		}
		return vpc.PutTargetGroup(physicalId, spec)
	case "AWS::ElasticLoadBalancingV2::LoadBalancer":
		spec, subnets, err := vpcnet.ParseLoadBalancer(s.name, properties)
		if err != nil {
			return err
		}
		spec.Scale, spec.Addresses = cmp.Or(s.Options.BalancerScale, s.Options.Scale), map[string]netip.Addr{}
		if !exists {
			physicalId = arn("elasticloadbalancing", "loadbalancer/net/"+name+"/"+hash)
			s.set(id, "", physicalId)
			s.set(id, "LoadBalancerArn", physicalId)
			s.set(id, "LoadBalancerName", name)
			s.set(id, "LoadBalancerFullName", "net/"+name+"/"+hash)
			s.set(id, "DNSName", name+"-"+hash+".elb."+region+".amazonaws.com")
			s.set(id, "CanonicalHostedZoneID", "Z26RNL4JYFTOTI")
			for _, subnet := range subnets {
				spec.Addresses[subnet] = netip.MustParseAddr(s.Cloud.address(subnet))
			}
			s.mu.Lock()
			s.attributes[id]["addresses"] = spec.Addresses
			s.mu.Unlock()
		} else {
			known := s.attribute(id, "addresses").(map[string]netip.Addr)
			for _, subnet := range subnets {
				spec.Addresses[subnet] = known[subnet]
			}
		}
		spec.DNSName = fmt.Sprint(s.attribute(id, "DNSName"))
		if !s.Options.LoadBalancers {
			return nil
		}
		return vpc.PutLoadBalancer(physicalId, spec)
	default:
		spec, certificate, err := vpcnet.ParseListener(properties)
		if err != nil {
			return err
		}
		if certificate != "" {
			pem, ok := certificates.Load(certificate)
			if !ok {
				return fmt.Errorf("CertificateNotFound: Certificate ARN '%s' is not valid", certificate)
			}
			spec.Certificate = pem.(string)
		}
		if !exists {
			physicalId = arn("elasticloadbalancing", "listener/net/"+name+"/"+hash)
			s.set(id, "", physicalId)
			s.set(id, "ListenerArn", physicalId)
		}
		if !s.Options.LoadBalancers {
			return nil
		}
		return vpc.PutListener(physicalId, spec)
	}
}

// balance tells the load balancers what Auto Scaling did with a target of a target group, by its logical id. A terminated instance is no target any
// more, whatever Auto Scaling still does.
func (s *Stack) balance(group string, m *Machine, state string) error {
	if m.gone() {
		return nil
	}
	return s.setTarget(group, m, map[string]vpcnet.TargetState{"registered": vpcnet.Registered, "draining": vpcnet.Draining, "gone": vpcnet.Gone}[state])
}

func (s *Stack) setTarget(group string, m *Machine, state vpcnet.TargetState) error {
	if !s.Options.LoadBalancers {
		return nil
	}
	err := vpc.SetTarget(fmt.Sprint(s.attribute(group, "")), netip.MustParseAddr(m.Ip), 0, state)
	if s.existing()[group] == "" {
		return nil // an update took the target group away, with its targets
	}
	return err
}

// dropTargets is what Elastic Load Balancing does when an instance is terminated: nothing reaches it any more.
func (s *Stack) dropTargets(m *Machine) error {
	for group, state := range s.TargetStates(m) {
		if state != "gone" {
			if err := s.setTarget(group, m, vpcnet.Gone); err != nil {
				return err
			}
		}
	}
	return nil
}

// TargetHealth of a machine in a target group, by its logical id. It needs Options.LoadBalancers, as all that follows here does.
func (s *Stack) TargetHealth(targetGroup string, m *Machine) string {
	return vpc.Health(fmt.Sprint(s.attribute(targetGroup, "")), netip.MustParseAddr(m.Ip))
}

// FailHealthChecks of a target group, by its logical id.
func (s *Stack) FailHealthChecks(targetGroup string, fail bool) error {
	return vpc.FailHealthChecks(fmt.Sprint(s.attribute(targetGroup, "")), fail)
}

// Domain is the alias record that a user makes for a name: it means the load balancer of a logical id, for the stack's nodes
// and clients.
func (s *Stack) Domain(name, loadBalancer string) {
	vpc.DNS.Alias(s.name, name, fmt.Sprint(s.attribute(loadBalancer, "DNSName")))
}

// Client outside of the VPC that resolves the stack's names. The caller closes it.
func (s *Stack) Client(name string, options vpcnet.ClientOptions) (*vpcnet.Client, error) {
	options.Stack = s.name
	return vpc.Client(s.name+"-"+name, options)
}

// CutZone takes a zone, such as us-east-1a, off the stack's network.
func (s *Stack) CutZone(zone string) error { return vpc.CutZone(s.name, zone) }

// RestoreZone ends CutZone.
func (s *Stack) RestoreZone(zone string) error { return vpc.RestoreZone(s.name, zone) }
