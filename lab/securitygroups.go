package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
	vpcnet "github.com/openvidu-ha/openvidu-ha/lab/internal/network"
)

// vpc is the network of all stacks.
var vpc *vpcnet.Network

// changeSecurityGroup creates or changes a security group, or a rule that is a resource of its own.
func (s *Stack) changeSecurityGroup(id, kind string, properties map[string]any, exists bool) error {
	if kind == "AWS::EC2::SecurityGroup" {
		group, err := vpcnet.ParseGroup(s.name, properties)
		if err != nil {
			return err
		}
		if !exists {
			name := fmt.Sprintf("sg-%017x", serial.Add(1))
			s.set(id, "", name)
			s.set(id, "GroupId", name)
		}
		return vpc.PutGroup(fmt.Sprint(s.attribute(id, "")), group)
	}
	rule, err := vpcnet.ParseRule(properties)
	if err != nil {
		return err
	}
	if !exists {
		s.set(id, "", fmt.Sprintf("sgr-%017x", serial.Add(1)))
	}
	return vpc.PutRule(fmt.Sprint(s.attribute(id, "")), fmt.Sprint(properties["GroupId"]), kind == "AWS::EC2::SecurityGroupIngress", rule)
}

// admit makes a network interface of a machine a member of its security groups, if it is none yet: the first interface has
// those of the launch template; another one, made by the template, was admitted when it was created.
func (s *Stack) admit(m *Machine, address string) error {
	ip, err := netip.ParseAddr(address)
	if err != nil || address != m.Ip || vpc.Has(ip) {
		return err
	}
	s.mu.Lock()
	id, _ := cfn.At(s.deployment.Resources[m.Group], "Properties", "LaunchTemplate", "LaunchTemplateId", "Ref").(string)
	var data any
	if versions := s.versions[id]; m.Version >= 1 && m.Version <= len(versions) {
		data = versions[m.Version-1]
	}
	s.mu.Unlock()
	groups, public := cfn.List(cfn.At(data, "SecurityGroupIds")), any(nil)
	for _, element := range cfn.List(cfn.At(data, "NetworkInterfaces")) {
		if fmt.Sprint(cfn.At(element, "DeviceIndex")) == "0" {
			groups, public = cfn.List(cfn.At(element, "Groups")), cfn.At(element, "AssociatePublicIpAddress")
		}
	}
	subnet, _ := vpc.Subnet(m.subnet)
	if len(groups) == 0 {
		return fmt.Errorf("%s has no security group: its launch template would take the VPC's default one", m.Group)
	}
	_, err = vpc.AddInterface(vpcnet.Interface{Address: ip, Stack: s.name, Subnet: m.subnet, Groups: texts(groups),
		Public: public == true || public == nil && subnet.MapPublic})
	return err
}

// admitInterface does so for an AWS::EC2::NetworkInterface. It has no public address (VPC User Guide, IP addressing: only the
// first interface of an instance gets one by itself).
func (s *Stack) admitInterface(e *eni, properties map[string]any) error {
	ip, err := netip.ParseAddr(e.ip)
	if err == nil {
		_, err = vpc.AddInterface(vpcnet.Interface{Address: ip, Stack: s.name, Subnet: fmt.Sprint(properties["SubnetId"]), Groups: texts(cfn.List(properties["GroupSet"]))})
	}
	return err
}

// dismiss takes a terminated instance's first interface away. Others stay, as their resources do.
func (m *Machine) dismiss() {
	must(vpc.RemoveInterface(netip.MustParseAddr(m.Ip)))
}

// PublicIp of the machine; "" if it has none.
func (m *Machine) PublicIp() string {
	if public := vpc.PublicAddress(netip.MustParseAddr(m.Ip)); public.IsValid() {
		return public.String()
	}
	return ""
}

// removed takes away what the network knows of resources that a template has no more, in an order in which AWS lets them go.
func (s *Stack) removed(d *cfn.Deployment) error {
	for _, kind := range []string{"ElasticLoadBalancingV2::Listener", "ElasticLoadBalancingV2::LoadBalancer", "ElasticLoadBalancingV2::TargetGroup",
		"EC2::SecurityGroupIngress", "EC2::SecurityGroupEgress", "EC2::SecurityGroup"} {
		for id, existing := range s.existing() {
			if d.Resources[id] != nil || existing != "AWS::"+kind {
				continue
			}
			physical := fmt.Sprint(s.attribute(id, ""))
			remove := map[string]func(string) error{"Listener": vpc.DeleteListener, "LoadBalancer": vpc.DeleteLoadBalancer, "TargetGroup": vpc.DeleteTargetGroup,
				"SecurityGroup": vpc.DeleteGroup, "SecurityGroupIngress": vpc.DeleteRule, "SecurityGroupEgress": vpc.DeleteRule}
			if strings.HasPrefix(kind, "ElasticLoadBalancing") && !s.Options.LoadBalancers {
				remove = nil
			}
			s.mu.Lock()
			delete(s.applied, id) // first: what Auto Scaling does meanwhile with a target group that goes is no error, see setTarget
			s.mu.Unlock()
			if remove := remove[kind[strings.LastIndex(kind, ":")+1:]]; remove == nil {
			} else if err := remove(physical); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			s.mu.Lock()
			delete(s.attributes, id)
			s.mu.Unlock()
		}
	}
	return nil
}

func texts(list []any) (out []string) {
	for _, element := range list {
		out = append(out, fmt.Sprint(element))
	}
	return slices.Compact(out)
}
