// Package netguard keeps requests that the platform makes to addresses of somebody
// else's choosing away from the networks that the platform is in (SSRF: API7:2023 of
// OWASP's API Security Top 10).
//
// It owns which addresses may be connected to, and clients that keep to that. The
// check is made on the address that is about to be connected to, after every name was
// resolved: a name that leads elsewhere the second time does not help. It does not own
// what is asked, nor the connections of the gateway to its services, which operators
// choose in the gateway document.
package netguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Errors of this package. Which address it was is in no error: it would tell whoever
// chose the name what that leads to in here.
var (
	// ErrAddress: the address is not one that may be connected to.
	ErrAddress = errors.New("the address is not public, and not among those that are allowed")
	// ErrPort: the port is not one that may be connected to.
	ErrPort = errors.New("the port is not among those that are allowed")
	// ErrURL: the URL is none of a kind that may be requested.
	ErrURL = errors.New("must be an http or https URL with a host, and without user information and fragment")
)

// DefaultPorts are the ports of public addresses that may be connected to unless
// others are named.
func DefaultPorts() []uint16 { return []uint16{80, 443, 8080, 8443} }

// Guard says which addresses may be connected to. It is immutable.
type Guard struct {
	allow []netip.Prefix
	ports []uint16
}

// New makes a guard for public addresses at ports, [DefaultPorts] if there are none,
// and for those within allow at every port. A prefix of IPv4 addresses allows their
// IPv6-mapped form too. An invalid prefix is an error.
func New(allow []netip.Prefix, ports []uint16) (*Guard, error) {
	g := &Guard{ports: slices.Clone(ports)}
	if len(ports) == 0 {
		g.ports = DefaultPorts()
	}
	for _, p := range allow {
		if !p.IsValid() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%v is not a prefix of IPv4 or IPv6 addresses", p)
		}
		g.allow = append(g.allow, p.Masked())
	}
	return g, nil
}

// special are networks that are not on the public internet, or that lead to addresses
// which are not: the special-purpose registries of IANA (RFC 6890), what embeds an
// IPv4 address (it could be any of the others), and multicast.
func special() []netip.Prefix {
	texts := []string{
		"0.0.0.0/8",        // this host: Linux connects to itself
		"10.0.0.0/8",       // private (RFC 1918)
		"100.64.0.0/10",    // shared by carriers (RFC 6598), and metadata of some clouds
		"127.0.0.0/8",      // loopback
		"169.254.0.0/16",   // link-local, and metadata of most clouds
		"172.16.0.0/12",    // private
		"192.0.0.0/24",     // protocol assignments, and metadata of some clouds
		"192.0.2.0/24",     // documentation
		"192.88.99.0/24",   // 6to4 relays
		"192.168.0.0/16",   // private
		"198.18.0.0/15",    // benchmarks
		"198.51.100.0/24",  // documentation
		"203.0.113.0/24",   // documentation
		"224.0.0.0/4",      // multicast
		"240.0.0.0/4",      // reserved, and broadcast
		"168.63.129.16/32", // the host of a virtual machine in Azure: public by its number alone
	}
	list := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		list[i] = netip.MustParsePrefix(t)
	}
	return list
}

// global is all that is given out of IPv6 so far. Unique local (fc00::/7), link-local,
// loopback, mapped and compatible addresses, NAT64 (64:ff9b::/96 and 64:ff9b:1::/48)
// and multicast are outside of it.
const global = "2000::/3"

// specialIPv6 are the networks within global that are not public or embed an IPv4 address.
func specialIPv6() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("2001::/23"),     // protocol assignments, Teredo among them
		netip.MustParsePrefix("2001:db8::/32"), // documentation
		netip.MustParsePrefix("2002::/16"),     // 6to4
		netip.MustParsePrefix("3fff::/20"),     // documentation
	}
}

// Public reports whether addr is on the public internet. Addresses that embed
// another one are not.
func Public(addr netip.Addr) bool {
	within := func(p netip.Prefix) bool { return p.Contains(addr) }
	switch {
	case !addr.IsValid() || addr.Zone() != "":
		return false
	case addr.Is4():
		return !slices.ContainsFunc(special(), within)
	}
	return netip.MustParsePrefix(global).Contains(addr) && !slices.ContainsFunc(specialIPv6(), within)
}

// Check returns an error unless addr may be connected to.
func (g *Guard) Check(addr netip.AddrPort) error {
	ip := addr.Addr().Unmap() // what the kernel connects to
	if slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(ip.WithZone("")) }) {
		return nil
	}
	if !Public(ip) {
		return ErrAddress
	}
	if !slices.Contains(g.ports, addr.Port()) {
		return ErrPort
	}
	return nil
}

// control refuses a connection before it is begun. It is called with every address
// that is tried.
func (g *Guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || !strings.HasPrefix(network, "tcp") {
		return ErrAddress
	}
	return g.Check(addr)
}

// Dialer makes a dialer that keeps to the guard.
func (g *Guard) Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, ControlContext: g.control}
}

// ParseURL checks a URL that is to be requested later: scheme, host, and where the
// host is an address, whether that may be connected to. A host that is a name is
// checked when it is connected to.
func (g *Guard) ParseURL(text string) (*url.URL, error) {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || unicode.IsControl(r) || r == '\\' }) {
		return nil, ErrURL
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Opaque != "" || strings.Contains(text, "#") {
		return nil, ErrURL // the parser's error repeats the text, which may have a password in it
	}
	port, err := portOf(u)
	if err != nil {
		return nil, ErrURL
	}
	addr, err := netip.ParseAddr(u.Hostname())
	switch {
	case err == nil:
		return u, g.Check(netip.AddrPortFrom(addr, port))
	case numeric(u.Hostname()), strings.Contains(u.Hostname(), ":"):
		return nil, ErrAddress
	}
	return u, nil
}

func portOf(u *url.URL) (uint16, error) {
	switch {
	case u.Port() != "":
		n, err := strconv.ParseUint(u.Port(), 10, 16)
		return uint16(n), err
	case u.Scheme == "https":
		return 443, nil
	}
	return 80, nil
}

// numeric reports whether the last label of a host is a number, in which case some
// resolvers take the host for an IPv4 address: 127.1, 0x7f000001, 017700000001.
func numeric(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// Bounds of a client's answers.
const (
	maxHeader      = 64 << 10
	maxIdleConns   = 16
	idleConnection = 30 * time.Second
)

// Client makes an HTTP client that keeps to the guard. It follows no redirect, asks no
// proxy, whatever the environment says, and does not decompress; timeout bounds an
// exchange with the whole answer. Callers bound what they read of that.
func (g *Guard) Client(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			Proxy: nil, DialContext: g.Dialer(timeout).DialContext, ForceAttemptHTTP2: true, DisableCompression: true,
			TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout, MaxResponseHeaderBytes: maxHeader,
			MaxIdleConns: maxIdleConns, MaxIdleConnsPerHost: 1, IdleConnTimeout: idleConnection,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
