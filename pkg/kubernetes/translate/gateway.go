package translate

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/kubernetes/object"
)

// gatewayGroup is the group of the Gateway API.
const gatewayGroup = "gateway.networking.k8s.io"

// Types and reasons of conditions of the Gateway API.
const (
	conditionAccepted     = "Accepted"
	conditionProgrammed   = "Programmed"
	conditionResolvedRefs = "ResolvedRefs"
	conditionConflicted   = "Conflicted"

	reasonAccepted            = "Accepted"
	reasonProgrammed          = "Programmed"
	reasonInvalidParameters   = "InvalidParameters"
	reasonNotValid            = "Invalid"
	reasonAddressNotAssigned  = "AddressNotAssigned"
	reasonListenersNotValid   = "ListenersNotValid"
	reasonUnsupportedAddress  = "UnsupportedAddress"
	reasonUnsupportedProtocol = "UnsupportedProtocol"
	reasonInvalidKinds        = "InvalidRouteKinds"
	reasonInvalidCertificate  = "InvalidCertificateRef"
	reasonNoConflicts         = "NoConflicts"
	reasonHostnameConflict    = "HostnameConflict"
	reasonProtocolConflict    = "ProtocolConflict"
)

// Protocols of listeners that are supported.
const (
	protocolHTTP  = "HTTP"
	protocolHTTPS = "HTTPS"
)

// gateway is a Gateway that is ours.
type gateway struct {
	*object.Gateway
	listeners []*listener
}

// listener is one of its listeners.
type listener struct {
	*object.Listener
	broken     string // the reason for which it is not accepted; "" when it is
	why        string
	conflict   string // reason of the condition Conflicted
	badKinds   bool
	badRefs    string // why its certificates are not those it names
	httpRoutes bool   // HTTPRoutes may attach
	attached   int
}

// usable reports whether routes of the listener are served.
func (l *listener) usable() bool { return l.broken == "" && l.conflict == "" }

// gateways translates the Gateways of our classes and the routes that attach to them.
func (j *job) gateways(all Objects) {
	ours := map[string]bool{}
	for _, c := range all.GatewayClasses {
		if c.Spec.ControllerName != j.Controller {
			continue
		}
		accepted := condition{conditionAccepted, true, reasonAccepted, "Gateways of this class are served."}
		if absent(c.Spec.ParametersRef) {
			ours[c.Metadata.Name] = true
		} else {
			accepted = condition{conditionAccepted, false, reasonInvalidParameters, "parametersRef is not supported"}
		}
		want := object.ConditionsStatus{Conditions: j.conditions(c.Status.Conditions, c.Metadata.Generation, accepted)}
		j.status(KindGatewayClass, &c.Metadata, c.Status, want)
	}
	known := map[string]*gateway{}
	for _, g := range all.Gateways {
		if ours[g.Spec.GatewayClassName] {
			known[g.Metadata.Key()] = j.gateway(g)
		}
	}
	for _, r := range all.HTTPRoutes {
		j.httpRoute(r, known)
	}
	for _, g := range known {
		j.gatewayStatus(g)
	}
}

// absent reports whether a field that is not looked into was given.
func absent(raw []byte) bool {
	return len(raw) == 0 || string(raw) == "null" || string(raw) == "[]"
}

// gateway looks at the listeners of a Gateway.
func (j *job) gateway(g *object.Gateway) *gateway {
	out := &gateway{Gateway: g}
	for i := range g.Spec.Listeners {
		out.listeners = append(out.listeners, j.listener(&g.Spec.Listeners[i]))
	}
	for i, l := range out.listeners {
		for _, m := range out.listeners[:i] {
			switch {
			case l.Port != m.Port:
			case l.Protocol != m.Protocol:
				l.conflict, m.conflict = reasonProtocolConflict, reasonProtocolConflict
			case strings.EqualFold(l.Hostname, m.Hostname):
				l.conflict, m.conflict = reasonHostnameConflict, reasonHostnameConflict
			}
		}
	}
	return out
}

// listener says what is wrong with a listener.
func (j *job) listener(in *object.Listener) *listener {
	l := &listener{Listener: in, httpRoutes: true}
	switch {
	case in.Protocol != protocolHTTP && in.Protocol != protocolHTTPS:
		l.broken, l.why = reasonUnsupportedProtocol, fmt.Sprintf("the protocol %.50q is not supported, only HTTP and HTTPS are", in.Protocol)
	case in.Protocol == protocolHTTPS && in.TLS != nil && in.TLS.Mode != "" && in.TLS.Mode != "Terminate":
		l.broken, l.why = reasonUnsupportedProtocol, "TLS is always terminated here: the mode "+in.TLS.Mode+" is not supported"
	case in.Protocol == protocolHTTPS && !j.TLS:
		l.broken, l.why = reasonUnsupportedProtocol, "the gateway has no certificate: set server.tls in its configuration"
	case in.Protocol == protocolHTTPS:
		l.badRefs = "Secrets are not read: the certificates are those of server.tls in the configuration of the gateway"
	}
	if in.AllowedRoutes != nil && len(in.AllowedRoutes.Kinds) > 0 {
		l.httpRoutes = false
		for _, k := range in.AllowedRoutes.Kinds {
			if value(k.Group, gatewayGroup) == gatewayGroup && k.Kind == KindHTTPRoute {
				l.httpRoutes = true
			} else {
				l.badKinds = true
			}
		}
	}
	return l
}

// allows reports whether a route of a namespace may attach.
func (j *job) allows(g *gateway, l *listener, namespace string) bool {
	if !l.httpRoutes {
		return false
	}
	from, selector := "Same", (*object.Selector)(nil)
	if l.AllowedRoutes != nil && l.AllowedRoutes.Namespaces != nil {
		if l.AllowedRoutes.Namespaces.From != "" {
			from = l.AllowedRoutes.Namespaces.From
		}
		selector = l.AllowedRoutes.Namespaces.Selector
	}
	switch from {
	case "All":
		return true
	case "Same":
		return namespace == g.Metadata.Namespace
	case "Selector":
		n := j.namespaces[namespace]
		return n != nil && selector != nil && selects(selector, n.Metadata.Labels)
	}
	return false
}

// selects reports whether labels fulfil a selector. What it cannot read selects
// nothing.
func selects(s *object.Selector, labels map[string]string) bool {
	for name, want := range s.MatchLabels {
		if got, there := labels[name]; !there || got != want {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		got, there := labels[e.Key]
		holds := false
		switch e.Operator {
		case "In":
			holds = there && slices.Contains(e.Values, got)
		case "NotIn":
			holds = !there || !slices.Contains(e.Values, got)
		case "Exists":
			holds = there
		case "DoesNotExist":
			holds = !there
		}
		if !holds {
			return false
		}
	}
	return true
}

// gatewayStatus is the status of a Gateway, when all routes have been looked at.
func (j *job) gatewayStatus(g *gateway) {
	m, before := &g.Metadata, &g.Status
	var want object.GatewayStatus
	for _, a := range j.Addresses {
		kind := "Hostname"
		if isIP(a) {
			kind = "IPAddress"
		}
		want.Addresses = append(want.Addresses, object.GatewayAddress{Type: kind, Value: a})
	}
	bad := 0
	for _, l := range g.listeners {
		if !l.usable() {
			bad++
		}
		var last []object.Condition
		for _, s := range before.Listeners {
			if s.Name == l.Name {
				last = s.Conditions
			}
		}
		s := object.ListenerStatus{Name: l.Name, SupportedKinds: []object.RouteKind{}, AttachedRoutes: l.attached}
		if l.httpRoutes && (l.Protocol == protocolHTTP || l.Protocol == protocolHTTPS) {
			group := gatewayGroup
			s.SupportedKinds = append(s.SupportedKinds, object.RouteKind{Group: &group, Kind: KindHTTPRoute})
		}
		s.Conditions = j.conditions(last, m.Generation, l.conditions()...)
		want.Listeners = append(want.Listeners, s)
	}
	accepted := condition{conditionAccepted, true, reasonAccepted, "The Gateway is served."}
	programmed := condition{conditionProgrammed, true, reasonProgrammed, "The Gateway is served."}
	switch {
	case !absent(g.Spec.Addresses):
		accepted = condition{conditionAccepted, false, reasonUnsupportedAddress, "addresses cannot be chosen: they are gateway.kubernetes.addresses in the configuration of the gateway"}
	case bad > 0:
		accepted = condition{conditionAccepted, bad < len(g.listeners), reasonListenersNotValid, fmt.Sprintf("%d of %d listeners are not valid; see their conditions", bad, len(g.listeners))}
	}
	switch {
	case bad == len(g.listeners) && bad > 0:
		programmed = condition{conditionProgrammed, false, reasonNotValid, "no listener is valid"}
	case len(j.Addresses) == 0:
		programmed = condition{conditionProgrammed, false, reasonAddressNotAssigned, "requests are served, but the address is not known: set gateway.kubernetes.addresses in the configuration of the gateway"}
	}
	want.Conditions = j.conditions(before.Conditions, m.Generation, accepted, programmed)
	j.status(KindGateway, m, *before, want)
}

// conditions are those of a listener.
func (l *listener) conditions() []condition {
	accepted := condition{conditionAccepted, true, reasonAccepted, "The listener is served."}
	programmed := condition{conditionProgrammed, true, reasonProgrammed, "The listener is served."}
	refs := condition{conditionResolvedRefs, true, reasonResolved, "All references are good."}
	conflicted := condition{conditionConflicted, false, reasonNoConflicts, "No other listener is in its way."}
	if l.broken != "" {
		accepted = condition{conditionAccepted, false, l.broken, l.why}
	}
	if l.conflict != "" {
		conflicted = condition{conditionConflicted, true, l.conflict, "another listener of the Gateway has the same port"}
		if accepted.holds {
			accepted = condition{conditionAccepted, false, l.conflict, conflicted.message}
		}
	}
	if !l.usable() {
		programmed = condition{conditionProgrammed, false, reasonNotValid, accepted.message}
	}
	switch {
	case l.badKinds:
		refs = condition{conditionResolvedRefs, false, reasonInvalidKinds, "only HTTPRoutes are supported"}
	case l.badRefs != "":
		refs = condition{conditionResolvedRefs, false, reasonInvalidCertificate, l.badRefs}
	}
	return []condition{accepted, programmed, refs, conflicted}
}

// condition is what a condition should say.
type condition struct {
	name    string
	holds   bool
	reason  string
	message string
}

// maxMessage bounds the message of a condition, as the API server does.
const maxMessage = 32 << 10

// conditions brings conditions up to date. The time is that of the last change of
// the status alone; conditions of types that are not ours stay.
func (j *job) conditions(last []object.Condition, generation int64, want ...condition) []object.Condition {
	var out []object.Condition
	for _, c := range last {
		if !slices.ContainsFunc(want, func(w condition) bool { return w.name == c.Type }) {
			out = append(out, c)
		}
	}
	for _, w := range want {
		c := object.Condition{
			Type: w.name, Status: "False", Reason: w.reason, Message: w.message[:min(len(w.message), maxMessage)],
			ObservedGeneration: generation, LastTransitionTime: j.now,
		}
		if w.holds {
			c.Status = "True"
		}
		for _, before := range last {
			if before.Type == c.Type && before.Status == c.Status {
				c.LastTransitionTime = before.LastTransitionTime
			}
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b object.Condition) int { return strings.Compare(a.Type, b.Type) })
	return out
}

// status notes the status that an object should have.
func (j *job) status(kind string, meta *object.Meta, before, want any) {
	j.statuses = append(j.statuses, Status{Kind: kind, Meta: meta, Value: want, Changed: !same(before, want)})
}

// same compares statuses, whatever the order of their conditions.
func same(before, want any) bool { return reflect.DeepEqual(normal(before), normal(want)) }
