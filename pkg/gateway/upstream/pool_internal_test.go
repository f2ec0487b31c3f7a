package upstream

import "testing"

// TestPoolUsesNoProxy looks inside: [net/http] never sends requests to the local
// machine through a proxy, so a server here would not notice.
func TestPoolUsesNoProxy(t *testing.T) {
	if NewPool(Identity{}).transport.Proxy != nil {
		t.Error("the environment of the process can redirect requests")
	}
}
