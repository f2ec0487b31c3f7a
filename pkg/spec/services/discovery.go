package services

import (
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Discovery is where the targets of a service are looked up while it runs, in
// place of url and targets. There is one kind of it in a service.
type Discovery struct {
	DNS        *DNSDiscovery        `json:"dns,omitempty"`
	Etcd       *EtcdDiscovery       `json:"etcd,omitempty"`
	Consul     *ConsulDiscovery     `json:"consul,omitempty"`
	Kubernetes *KubernetesDiscovery `json:"kubernetes,omitempty"`
}

// DNSDiscovery asks the name service at an interval. Of SRV records, the priority
// becomes that of the target and the weight its weight.
type DNSDiscovery struct {
	Name string `json:"name"`

	// Type is the type of the records; without it, A and AAAA are both asked for.
	Type string `json:"type,omitempty" enum:"A,AAAA,SRV"`

	Port     int               `json:"port,omitempty"` // of addresses; SRV records have their own
	Scheme   string            `json:"scheme" enum:"http,https"`
	Interval quantity.Duration `json:"interval"`

	// Server is the name server, an address with an optional port, instead of those
	// of the system.
	Server string `json:"server,omitempty"`
}

// EtcdDiscovery follows the keys below a prefix of etcd (3.4 or newer), of which
// each holds one target.
type EtcdDiscovery struct {
	Endpoints    []string    `json:"endpoints"` // URLs of members
	Prefix       string      `json:"prefix"`
	Scheme       string      `json:"scheme" enum:"http,https"`
	Username     string      `json:"username,omitempty"`
	PasswordFile string      `json:"password_file,omitempty"`
	TLS          *BackendTLS `json:"tls,omitempty"` // of the connection to etcd
}

// ConsulDiscovery follows the instances of a service of Consul.
type ConsulDiscovery struct {
	URL         string `json:"url"` // of an agent
	Service     string `json:"service"`
	Tag         string `json:"tag,omitempty"`
	Datacenter  string `json:"datacenter,omitempty"`
	PassingOnly bool   `json:"passing_only"` // leaves out instances of which a check fails
	Scheme      string `json:"scheme" enum:"http,https"`

	TokenFile string      `json:"token_file,omitempty"`
	TLS       *BackendTLS `json:"tls,omitempty"` // of the connection to Consul
}

// KubernetesDiscovery follows the EndpointSlices of a service of Kubernetes. A
// gateway that runs inside of the cluster needs no more than the first three.
type KubernetesDiscovery struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Port      Port   `json:"port"` // its name in the service, or the number that the pods listen on
	Scheme    string `json:"scheme" enum:"http,https"`

	APIURL    string `json:"api_url,omitempty"`
	TokenFile string `json:"token_file,omitempty"`
	CAFile    string `json:"ca_file,omitempty"`
}

// Port is the name or the number of a port.
type Port string

// UnmarshalText reads a name (RFC 6335 section 5.1) or a number.
func (p *Port) UnmarshalText(text []byte) error {
	if !Port(text).valid() {
		return check.ErrText("must be the name of a port, such as http, or a number from 1 to 65535")
	}
	*p = Port(text)
	return nil
}

func (p Port) valid() bool {
	if n, err := strconv.Atoi(string(p)); err == nil {
		return n >= 1 && n <= 65535 && strconv.Itoa(n) == string(p)
	}
	return len(p) <= 15 && check.IsLabel(string(p))
}

// Number is the port as a number; 0 when it is a name.
func (p Port) Number() int {
	n, _ := strconv.Atoi(string(p))
	return n
}

// The types of DNS records, and the schemes of targets.
const (
	RecordA    = "A"
	RecordAAAA = "AAAA"
	RecordSRV  = "SRV"

	schemeHTTP  = "http"
	schemeHTTPS = "https"
)

// Bounds of discovery.
const (
	minInterval  = quantity.Duration(time.Second)
	maxEndpoints = 16
)

// SetDefaults fills in what a document need not say.
func (d *DNSDiscovery) SetDefaults() {
	d.Scheme, d.Interval = schemeHTTP, quantity.Duration(10*time.Second)
}

// SetDefaults fills in what a document need not say.
func (d *EtcdDiscovery) SetDefaults() { d.Scheme = schemeHTTP }

// SetDefaults fills in what a document need not say.
func (d *ConsulDiscovery) SetDefaults() { d.Scheme, d.PassingOnly = schemeHTTP, true }

// SetDefaults fills in what a document need not say.
func (d *KubernetesDiscovery) SetDefaults() { d.Scheme = schemeHTTP }

// Scheme is that of the targets that are found.
func (d *Discovery) Scheme() string {
	switch {
	case d.DNS != nil:
		return d.DNS.Scheme
	case d.Etcd != nil:
		return d.Etcd.Scheme
	case d.Consul != nil:
		return d.Consul.Scheme
	case d.Kubernetes != nil:
		return d.Kubernetes.Scheme
	}
	return ""
}

func (d *Discovery) Normalise() {
	if d.DNS != nil {
		d.DNS.Name = check.Lower(d.DNS.Name)
		if host, port, err := canonical.Host(d.DNS.Server); err == nil {
			d.DNS.Server = host + ":" + orDNSPort(port)
		}
	}
	if d.Etcd != nil {
		for i, endpoint := range d.Etcd.Endpoints {
			d.Etcd.Endpoints[i] = normalURL(endpoint)
		}
	}
	if d.Consul != nil {
		d.Consul.URL = normalURL(d.Consul.URL)
	}
	if d.Kubernetes != nil {
		d.Kubernetes.APIURL = normalURL(d.Kubernetes.APIURL)
	}
}

func orDNSPort(port string) string {
	if port == "" {
		return "53"
	}
	return port
}

// normalURL is the normal form of a URL; what has none is left for the validation
// to refuse.
func normalURL(text string) string {
	if u, err := parseServiceURL(text); err == nil {
		return u.String()
	}
	return text
}

func (d *Discovery) Validate(path string, v *check.Checker) {
	kinds := 0
	if d.DNS != nil {
		kinds++
		d.DNS.Validate(path+".dns", v)
	}
	if d.Etcd != nil {
		kinds++
		d.Etcd.Validate(path+".etcd", v)
	}
	if d.Consul != nil {
		kinds++
		d.Consul.Validate(path+".consul", v)
	}
	if d.Kubernetes != nil {
		kinds++
		d.Kubernetes.Validate(path+".kubernetes", v)
	}
	if kinds != 1 {
		v.Fail(path, "must have one of dns, etcd, consul and kubernetes")
	}
}

func (d *DNSDiscovery) Validate(path string, v *check.Checker) {
	switch {
	case d.Name == "":
		v.Required(path + ".name")
	case !check.IsDNSName(d.Name):
		v.Fail(path+".name", "must be a name of the DNS, such as users.internal or _http._tcp.users.internal")
	}
	known := d.Type == "" || v.OneOf(path+".type", d.Type, RecordA, RecordAAAA, RecordSRV)
	switch {
	case known && d.Type == RecordSRV && d.Port != 0:
		v.Fail(path+".port", "belongs to addresses; SRV records have their own ports")
	case known && d.Type != RecordSRV && d.Port == 0:
		v.Required(path + ".port")
	case d.Port != 0:
		v.Between(path+".port", d.Port, 1, 65535)
	}
	scheme(v, path, d.Scheme)
	if d.Interval < minInterval || d.Interval > check.MaxTimeout {
		v.Fail(path+".interval", "must be from %s to %s", time.Duration(minInterval), time.Duration(check.MaxTimeout))
	}
	if d.Server != "" {
		if host, port, err := canonical.Host(d.Server); err != nil || host+":"+port != d.Server {
			v.Fail(path+".server", "must be an address with an optional port, such as 127.0.0.1:5353")
		}
	}
}

func (d *EtcdDiscovery) Validate(path string, v *check.Checker) {
	if len(d.Endpoints) == 0 {
		v.Required(path + ".endpoints")
	}
	if len(d.Endpoints) > maxEndpoints {
		v.Fail(path+".endpoints", "must not name more than %d", maxEndpoints)
	}
	tls := len(d.Endpoints) > 0
	for i, endpoint := range d.Endpoints {
		registryURL(v, check.Index(path+".endpoints", i), endpoint)
		tls = tls && strings.HasPrefix(endpoint, "https:")
	}
	v.Word(path+".prefix", d.Prefix, true)
	scheme(v, path, d.Scheme)
	v.Word(path+".username", d.Username, false)
	if (d.Username == "") != (d.PasswordFile == "") {
		v.Fail(path, "must have both of username and password_file, or none")
	}
	if d.TLS != nil {
		d.TLS.validateFor(path+".tls", "https endpoints", tls, v)
	}
}

func (d *ConsulDiscovery) Validate(path string, v *check.Checker) {
	registryURL(v, path+".url", d.URL)
	v.Word(path+".service", d.Service, true)
	v.Word(path+".tag", d.Tag, false)
	v.Word(path+".datacenter", d.Datacenter, false)
	scheme(v, path, d.Scheme)
	if d.TLS != nil {
		d.TLS.validateFor(path+".tls", "an https url", strings.HasPrefix(d.URL, "https:"), v)
	}
}

func (d *KubernetesDiscovery) Validate(path string, v *check.Checker) {
	for _, name := range []struct{ field, value string }{{"namespace", d.Namespace}, {"service", d.Service}} {
		switch {
		case name.value == "":
			v.Required(path + "." + name.field)
		case len(name.value) > check.MaxName || !check.IsLabel(name.value):
			v.Fail(path+"."+name.field, "must be a name of Kubernetes: at most %d small letters, digits and hyphens", check.MaxName)
		}
	}
	switch {
	case d.Port == "":
		v.Required(path + ".port")
	case !d.Port.valid():
		v.Fail(path+".port", "must be the name of a port, such as http, or a number from 1 to 65535")
	}
	scheme(v, path, d.Scheme)
	if d.APIURL != "" {
		registryURL(v, path+".api_url", d.APIURL)
	}
	if d.CAFile != "" && strings.HasPrefix(d.APIURL, "http:") {
		v.Fail(path+".ca_file", "belongs to an https api_url")
	}
}

func scheme(v *check.Checker, path, word string) {
	v.OneOf(path+".scheme", word, schemeHTTP, schemeHTTPS)
}

// registryURL checks the address of what is asked for targets.
func registryURL(v *check.Checker, path, text string) {
	switch u, err := parseServiceURL(text); {
	case text == "":
		v.Required(path)
	case err != nil:
		v.Fail(path, "%s", err.Error())
	case u.String() != text:
		v.Fail(path, "is not in its normal form, %s", u)
	}
}
