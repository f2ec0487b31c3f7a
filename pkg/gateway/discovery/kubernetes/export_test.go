package kubernetes

import (
	"encoding/json"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
)

// Endpoints returns what is published of a service with this one slice.
func Endpoints(text []byte) ([]discovery.Found, error) {
	var s slice
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	return endpoints([]*slice{&s}, &Config{PortName: "http"}), nil
}
