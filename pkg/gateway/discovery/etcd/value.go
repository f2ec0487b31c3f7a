package etcd

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
)

// parse reads the value of a key: an address, http://10.0.0.1:8081 or
// 10.0.0.1:8081, or an object with it and more. Objects in the form of etcd's own
// naming package, {"Addr": "10.0.0.1:8081"}, are among those.
func parse(kv keyValue, scheme string) discovery.Found {
	var value struct {
		URL      string `json:"url"`
		Addr     string `json:"addr"`
		Weight   int    `json:"weight"`
		Priority int    `json:"priority"`
		Zone     string `json:"zone"`
	}
	text := strings.TrimSpace(string(kv.Value))
	if !strings.HasPrefix(text, "{") {
		value.URL = text
	} else if err := json.Unmarshal([]byte(text), &value); err != nil {
		return discovery.Found{Err: fmt.Errorf("the value of the key %.100q is not what it should be: %w", kv.Key, err)}
	}
	host := cmp.Or(value.URL, value.Addr)
	if given, rest, ok := strings.Cut(host, "://"); ok {
		if given != scheme {
			return discovery.Found{Err: fmt.Errorf("the key %.100q has a target whose scheme is not %s", kv.Key, scheme)}
		}
		host = withPort(strings.TrimSuffix(rest, "/"), scheme)
	}
	return discovery.Found{Host: host, Weight: value.Weight, Priority: value.Priority, Zone: value.Zone}
}

// withPort is the host of a URL with the port that it has or that its scheme says.
func withPort(host, scheme string) string {
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 && !strings.HasSuffix(host, "]") {
		return host
	}
	if scheme == "https" {
		return host + ":443"
	}
	return host + ":80"
}
