package spec

import (
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
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

	Port     int      `json:"port,omitempty"` // of addresses; SRV records have their own
	Scheme   string   `json:"scheme" enum:"http,https"`
	Interval Duration `json:"interval"`

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
		return errText("must be the name of a port, such as http, or a number from 1 to 65535")
	}
	*p = Port(text)
	return nil
}

func (p Port) valid() bool {
	if n, err := strconv.Atoi(string(p)); err == nil {
		return n >= 1 && n <= 65535 && strconv.Itoa(n) == string(p)
	}
	return len(p) <= 15 && isLabel(string(p))
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
	minInterval  = Duration(time.Second)
	maxEndpoints = 16
	maxWord      = 256 // bytes of a prefix, a user name, a tag
)

// SetDefaults fills in what a document need not say.
func (d *DNSDiscovery) SetDefaults() {
	d.Scheme, d.Interval = schemeHTTP, Duration(10*time.Second)
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

func (d *Discovery) normalise() {
	if d.DNS != nil {
		d.DNS.Name = lower(d.DNS.Name)
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

func (d *Discovery) validate(path string, v *validator) {
	kinds := 0
	if d.DNS != nil {
		kinds++
		d.DNS.validate(path+".dns", v)
	}
	if d.Etcd != nil {
		kinds++
		d.Etcd.validate(path+".etcd", v)
	}
	if d.Consul != nil {
		kinds++
		d.Consul.validate(path+".consul", v)
	}
	if d.Kubernetes != nil {
		kinds++
		d.Kubernetes.validate(path+".kubernetes", v)
	}
	if kinds != 1 {
		v.fail(path, "must have one of dns, etcd, consul and kubernetes")
	}
}

func (d *DNSDiscovery) validate(path string, v *validator) {
	switch {
	case d.Name == "":
		v.required(path + ".name")
	case !isDNSName(d.Name):
		v.fail(path+".name", "must be a name of the DNS, such as users.internal or _http._tcp.users.internal")
	}
	known := d.Type == "" || v.oneOf(path+".type", d.Type, RecordA, RecordAAAA, RecordSRV)
	switch {
	case known && d.Type == RecordSRV && d.Port != 0:
		v.fail(path+".port", "belongs to addresses; SRV records have their own ports")
	case known && d.Type != RecordSRV && d.Port == 0:
		v.required(path + ".port")
	case d.Port != 0:
		v.between(path+".port", d.Port, 1, 65535)
	}
	v.scheme(path, d.Scheme)
	if d.Interval < minInterval || d.Interval > maxTimeout {
		v.fail(path+".interval", "must be from %s to %s", time.Duration(minInterval), time.Duration(maxTimeout))
	}
	if d.Server != "" {
		if host, port, err := canonical.Host(d.Server); err != nil || host+":"+port != d.Server {
			v.fail(path+".server", "must be an address with an optional port, such as 127.0.0.1:5353")
		}
	}
}

func (d *EtcdDiscovery) validate(path string, v *validator) {
	if len(d.Endpoints) == 0 {
		v.required(path + ".endpoints")
	}
	if len(d.Endpoints) > maxEndpoints {
		v.fail(path+".endpoints", "must not name more than %d", maxEndpoints)
	}
	tls := len(d.Endpoints) > 0
	for i, endpoint := range d.Endpoints {
		v.registryURL(index(path+".endpoints", i), endpoint)
		tls = tls && strings.HasPrefix(endpoint, "https:")
	}
	v.word(path+".prefix", d.Prefix, true)
	v.scheme(path, d.Scheme)
	v.word(path+".username", d.Username, false)
	if (d.Username == "") != (d.PasswordFile == "") {
		v.fail(path, "must have both of username and password_file, or none")
	}
	if d.TLS != nil {
		d.TLS.validateFor(path+".tls", "https endpoints", tls, v)
	}
}

func (d *ConsulDiscovery) validate(path string, v *validator) {
	v.registryURL(path+".url", d.URL)
	v.word(path+".service", d.Service, true)
	v.word(path+".tag", d.Tag, false)
	v.word(path+".datacenter", d.Datacenter, false)
	v.scheme(path, d.Scheme)
	if d.TLS != nil {
		d.TLS.validateFor(path+".tls", "an https url", strings.HasPrefix(d.URL, "https:"), v)
	}
}

func (d *KubernetesDiscovery) validate(path string, v *validator) {
	for _, name := range []struct{ field, value string }{{"namespace", d.Namespace}, {"service", d.Service}} {
		switch {
		case name.value == "":
			v.required(path + "." + name.field)
		case len(name.value) > maxName || !isLabel(name.value):
			v.fail(path+"."+name.field, "must be a name of Kubernetes: at most %d small letters, digits and hyphens", maxName)
		}
	}
	switch {
	case d.Port == "":
		v.required(path + ".port")
	case !d.Port.valid():
		v.fail(path+".port", "must be the name of a port, such as http, or a number from 1 to 65535")
	}
	v.scheme(path, d.Scheme)
	if d.APIURL != "" {
		v.registryURL(path+".api_url", d.APIURL)
	}
	if d.CAFile != "" && strings.HasPrefix(d.APIURL, "http:") {
		v.fail(path+".ca_file", "belongs to an https api_url")
	}
}

func (v *validator) scheme(path, scheme string) {
	v.oneOf(path+".scheme", scheme, schemeHTTP, schemeHTTPS)
}

// registryURL checks the address of what is asked for targets.
func (v *validator) registryURL(path, text string) {
	switch u, err := parseServiceURL(text); {
	case text == "":
		v.required(path)
	case err != nil:
		v.fail(path, "%s", err.Error())
	case u.String() != text:
		v.fail(path, "is not in its normal form, %s", u)
	}
}

// word checks a name that another system has given.
func (v *validator) word(path, text string, required bool) {
	switch {
	case text == "" && required:
		v.required(path)
	case len(text) > maxWord:
		v.fail(path, "must not be longer than %d bytes", maxWord)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		v.fail(path, "must not have control characters")
	}
}

// isLabel reports whether s is letters, digits and hyphens between two of them
// (RFC 1123 section 2.1), in lower case.
func isLabel(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && i > 0 && i < len(s)-1:
		default:
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// isDNSName reports whether s is a name in lower case, with the underscores that
// services have (RFC 2782); a dot at the end makes it absolute.
func isDNSName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if !isLabel(strings.TrimPrefix(label, "_")) {
			return false
		}
	}
	return true
}
