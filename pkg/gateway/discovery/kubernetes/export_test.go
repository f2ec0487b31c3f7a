package kubernetes

import "github.com/keywarden/keywarden/pkg/gateway/discovery"

// Event returns what one event of a watch makes of an empty service.
func Event(line []byte) (found []discovery.Found, err error) {
	f := &follow{
		config: &Config{PortName: "http"}, slices: map[string]slice{},
		publish: func(list []discovery.Found) { found = list },
	}
	err = f.event(line)
	return found, err
}
