package kubernetes_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/discoverytest"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/kubernetes"
	"github.com/keywarden/keywarden/pkg/kubernetes/kubernetestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type object = kubernetestest.Object

// cluster is an API server with the slices of the service users.
type cluster struct {
	*kubernetestest.Server
	t *testing.T
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	return &cluster{kubernetestest.New(t), t}
}

func (c *cluster) config() kubernetes.Config {
	return kubernetes.Config{Namespace: "shop", Service: "users", PortName: "http", APIURL: c.URL, TokenFile: c.TokenFile, CAFile: c.CAFile}
}

// put creates or replaces a slice of the service.
func (c *cluster) put(name string, slice object) { c.putFor("shop", "users", name, slice) }

func (c *cluster) putFor(namespace, service, name string, slice object) {
	c.t.Helper()
	slice["kind"] = "EndpointSlice"
	slice["metadata"] = object{"name": name, "namespace": namespace, "labels": object{"kubernetes.io/service-name": service}}
	text, err := json.Marshal(slice)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Apply(string(text))
}

func (c *cluster) remove(name string) { c.Delete("EndpointSlice", "shop", name) }

// awaitWatch waits until the source watches.
func (c *cluster) awaitWatch() {
	c.t.Helper()
	discoverytest.Eventually(c.t, "a watch", func() bool { return c.Watches() == 1 })
}

// endpoint is one of a slice; ready may be nil.
func endpoint(addr string, ready any) object {
	e := object{"addresses": []string{addr}, "conditions": object{"serving": true}, "zone": "zone-a", "targetRef": object{"kind": "Pod"}}
	if ready != nil {
		e["conditions"] = object{"ready": ready, "serving": true, "terminating": !ready.(bool)}
	}
	return e
}

func slice(family string, endpoints ...object) object {
	return object{
		"addressType": family, "endpoints": endpoints,
		"ports": []object{{"name": "metrics", "port": 9090, "protocol": "TCP"}, {"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "http", "port": 8081, "protocol": "UDP"}},
	}
}

func at(host string) discovery.Found { return discovery.Found{Host: host, Zone: "zone-a"} }

func TestSlicesAreFollowed(t *testing.T) {
	c := newCluster(t)
	c.put("users-1", slice("IPv4", endpoint("10.0.0.1", true), endpoint("10.0.0.2", false), endpoint("10.0.0.3", nil)))
	c.put("users-2", slice("IPv4", endpoint("10.0.1.1", true)))
	c.put("users-0", slice("IPv4"))
	c.putFor("shop", "orders", "orders-1", slice("IPv4", endpoint("10.1.0.1", true)))
	c.putFor("other", "users", "users-1", slice("IPv4", endpoint("10.2.0.1", true)))
	run := discoverytest.Start(t, kubernetes.New(c.config()))
	run.Wait(at("10.0.0.1:8080"), at("10.0.0.3:8080"), at("10.0.1.1:8080"))
	c.put("users-2", slice("IPv4", endpoint("10.0.1.1", true), endpoint("10.0.1.2", true)))
	run.Wait(at("10.0.0.1:8080"), at("10.0.0.3:8080"), at("10.0.1.1:8080"), at("10.0.1.2:8080"))
	c.remove("users-1")
	run.Wait(at("10.0.1.1:8080"), at("10.0.1.2:8080"))
	c.putFor("shop", "orders", "orders-1", slice("IPv4", endpoint("10.1.0.2", true)))
	c.put("users-3", slice("IPv4", endpoint("10.0.2.1", true)))
	run.Wait(at("10.0.1.1:8080"), at("10.0.1.2:8080"), at("10.0.2.1:8080"))
	c.remove("users-2")
	c.put("users-3", slice("IPv4", endpoint("10.0.2.1", false)))
	run.Wait()
	if lists, watches := c.Lists(), c.Watches(); lists != 2 || watches != 1 { // two pages
		t.Errorf("%d lists and %d watches", lists, watches)
	}
}

func TestAWatchThatEndsGoesOnFromTheLastBookmark(t *testing.T) {
	c := newCluster(t)
	c.put("users-1", slice("IPv4", endpoint("10.0.0.1", true)))
	run := discoverytest.Start(t, kubernetes.New(c.config()))
	run.Wait(at("10.0.0.1:8080"))
	c.awaitWatch()
	c.Bookmark()
	c.HangUp()
	c.Forget() // all before the bookmark
	c.awaitWatch()
	c.put("users-1", slice("IPv4", endpoint("10.0.0.2", true)))
	run.Wait(at("10.0.0.2:8080"))
	if n := c.Lists(); n != 1 {
		t.Errorf("it listed %d times", n)
	}
}

func TestAVersionThatIsGoneIsListedAnew(t *testing.T) {
	c := newCluster(t)
	c.put("users-1", slice("IPv4", endpoint("10.0.0.1", true)))
	c.put("users-2", slice("IPv4", endpoint("10.0.0.2", true)))
	run := discoverytest.Start(t, kubernetes.New(c.config()))
	run.Wait(at("10.0.0.1:8080"), at("10.0.0.2:8080"))
	c.awaitWatch()
	c.Compact(func() { c.remove("users-2") })
	run.Wait(at("10.0.0.1:8080"))
	c.put("users-3", slice("IPv4", endpoint("10.0.0.3", true)))
	run.Wait(at("10.0.0.1:8080"), at("10.0.0.3:8080"))
	if n := c.Lists(); n != 2 {
		t.Errorf("it listed %d times", n)
	}
}

func TestOneFamilyOfAServiceIsTaken(t *testing.T) {
	c := newCluster(t)
	c.put("users-6", slice("IPv6", endpoint("fd00::1", true)))
	run := discoverytest.Start(t, kubernetes.New(c.config()))
	run.Wait(at("[fd00::1]:8080"))
	c.put("users-4", slice("IPv4", endpoint("10.0.0.1", true)))
	run.Wait(at("10.0.0.1:8080"))
	c.put("users-f", slice("FQDN", endpoint("users.example", true)))
	c.remove("users-4")
	run.Wait(at("[fd00::1]:8080"))
}

func TestThePortGoesByNameOrNumber(t *testing.T) {
	c := newCluster(t)
	c.put("users-1", slice("IPv4", endpoint("10.0.0.1", true)))
	config := c.config()
	config.PortName, config.PortNumber = "", 9090
	discoverytest.Start(t, kubernetes.New(config)).Wait(at("10.0.0.1:9090"))
	for name, change := range map[string]func(*kubernetes.Config){
		"another name":   func(c *kubernetes.Config) { c.PortName = "grpc" },
		"another number": func(c *kubernetes.Config) { c.PortName, c.PortNumber = "", 80 },
		"UDP":            func(c *kubernetes.Config) { c.PortName, c.PortNumber = "", 8081 },
	} {
		t.Run(name, func(t *testing.T) {
			config := c.config()
			change(&config)
			run := discoverytest.Start(t, kubernetes.New(config))
			discoverytest.Eventually(t, "an answer", func() bool { return run.Answers() > 0 })
			if last := run.Last(); len(last) != 1 || last[0].Err == nil {
				t.Errorf("published %+v, want that the port is not there", last)
			}
		})
	}
}

func TestAFailureIsNoAnswer(t *testing.T) {
	for _, status := range []int{301, 401, 403, 404, 429, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			c := newCluster(t)
			c.Down(status)
			run := discoverytest.Start(t, kubernetes.New(c.config()))
			if err := run.Err(); err == nil || run.Answers() != 0 || strings.Contains(err.Error(), kubernetestest.Token) {
				t.Errorf("error %v after %d answers", err, run.Answers())
			}
		})
	}
	for name, c := range map[string]struct {
		change func(*kubernetes.Config)
		says   string
	}{
		"another authority": {func(c *kubernetes.Config) { c.CAFile = "" }, "certificate"},
		"no token":          {func(c *kubernetes.Config) { c.TokenFile += ".absent" }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			config := newCluster(t).config()
			c.change(&config)
			run := discoverytest.Start(t, kubernetes.New(config))
			if err := run.Err(); err == nil || !strings.Contains(err.Error(), c.says) || run.Answers() != 0 {
				t.Errorf("error %v after %d answers", err, run.Answers())
			}
		})
	}
}

// Half of what there is would be taken for all of it, and the rest get no requests.
func TestASliceThatCannotBeReadIsAFailure(t *testing.T) {
	broken := func() object { return object{"addressType": "IPv4", "endpoints": "many"} }
	t.Run("listed", func(t *testing.T) {
		c := newCluster(t)
		c.put("users-1", slice("IPv4", endpoint("10.0.0.1", true)))
		c.put("users-2", broken())
		run := discoverytest.Start(t, kubernetes.New(c.config()))
		if err := run.Err(); err == nil || run.Answers() != 0 {
			t.Errorf("error %v after %d answers", err, run.Answers())
		}
	})
	t.Run("watched", func(t *testing.T) {
		c := newCluster(t)
		c.put("users-1", slice("IPv4", endpoint("10.0.0.1", true)))
		run := discoverytest.Start(t, kubernetes.New(c.config()))
		run.Wait(at("10.0.0.1:8080"))
		c.awaitWatch()
		c.put("users-1", broken())
		if err := run.Err(); err == nil || run.Answers() != 1 {
			t.Errorf("error %v after %d answers", err, run.Answers())
		}
	})
}

// FuzzSlice: whatever a slice says, an entry has an address or says why it has none.
func FuzzSlice(f *testing.F) {
	f.Add(`{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"]}],"ports":[{"name":"http","port":80}]}`)
	f.Add(`{"addressType":"IPv6","endpoints":[{"addresses":[]},{"addresses":["::1"],"conditions":{"ready":false}}],"ports":[{"port":0}]}`)
	f.Add(`{"addressType":"IPv4","endpoints":[{"addresses":["x"],"zone":null}],"ports":[{"name":null,"port":null,"protocol":"UDP"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		found, err := kubernetes.Endpoints([]byte(text))
		if err != nil && found != nil {
			t.Errorf("%v with error %v", found, err)
		}
		for _, one := range found {
			if one.Host == "" && one.Err == nil {
				t.Errorf("an entry with neither address nor error, of %s", text)
			}
		}
	})
}
