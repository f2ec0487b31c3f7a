package kubernetes

import (
	"cmp"
	"fmt"
	"net"
	"strconv"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/kubernetes/object"
)

// slice is what is read of an EndpointSlice.
type slice struct {
	object.Object
	AddressType string `json:"addressType"` // IPv4, IPv6; FQDN is not used
	Endpoints   []struct {
		Addresses  []string `json:"addresses"` // all reach the same; the first is used
		Conditions struct {
			Ready *bool `json:"ready"` // absent counts as ready
		} `json:"conditions"`
		Zone *string `json:"zone"`
	} `json:"endpoints"`
	Ports []struct {
		Name     *string `json:"name"`
		Port     *int    `json:"port"`
		Protocol *string `json:"protocol"` // TCP when absent
	} `json:"ports"`
}

// endpoints are the ready endpoints of the service at the wanted port. A service
// of both families has each of its pods in two slices: those of one are taken, of
// IPv4 where it has ready ones.
func endpoints(all []*slice, c *Config) []discovery.Found {
	for _, family := range []string{"IPv4", "IPv6"} {
		var found []discovery.Found
		for _, s := range all {
			if s.AddressType == family {
				found = append(found, s.ready(c)...)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// ready lists the ready endpoints of a slice. Where it has some, but not the port,
// that is one entry with an error.
func (s *slice) ready(c *Config) []discovery.Found {
	port := s.port(c)
	var found []discovery.Found
	for _, e := range s.Endpoints {
		if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		if port == 0 {
			wanted := cmp.Or(c.PortName, strconv.Itoa(c.PortNumber))
			return []discovery.Found{{Err: fmt.Errorf("the EndpointSlice %.100q has no TCP port %s", s.Metadata.Name, wanted)}}
		}
		f := discovery.Found{Host: net.JoinHostPort(e.Addresses[0], strconv.Itoa(port))}
		if e.Zone != nil {
			f.Zone = *e.Zone
		}
		found = append(found, f)
	}
	return found
}

// port is the number of the wanted port; 0 when the slice does not have it.
func (s *slice) port(c *Config) int {
	for _, p := range s.Ports {
		if p.Port == nil || p.Protocol != nil && *p.Protocol != "TCP" {
			continue
		}
		if c.PortName != "" && p.Name != nil && *p.Name == c.PortName || c.PortName == "" && *p.Port == c.PortNumber {
			return *p.Port
		}
	}
	return 0
}
