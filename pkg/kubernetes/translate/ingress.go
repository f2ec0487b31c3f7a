package translate

import (
	"errors"
	"fmt"
	"maps"
	"reflect"

	"github.com/keywarden/keywarden/pkg/kubernetes/object"
)

// Path types of Ingress.
const (
	pathExact          = "Exact"
	pathPrefix         = "Prefix"
	pathImplementation = "ImplementationSpecific"
)

// legacyClass is the annotation that chose a class before there was a field for it.
const legacyClass = "kubernetes.io/ingress.class"

// reasonInvalid is why an object is refused whose content cannot be served.
const reasonInvalid = "UnsupportedValue"

// ingresses translates the Ingresses of our classes.
func (j *job) ingresses(all Objects) {
	ours := map[string]bool{}
	for _, c := range all.IngressClasses {
		ours[c.Metadata.Name] = c.Spec.Controller == j.Controller
	}
	for _, in := range all.Ingresses {
		if !ours[value(in.Spec.IngressClassName, in.Metadata.Annotations[legacyClass])] {
			continue
		}
		of := owner{KindIngress, &in.Metadata}
		drafts, err := j.ingress(in)
		var claims []claim
		if err == nil {
			claims, err = j.validate(of, drafts)
		}
		if err != nil {
			j.refuse(KindIngress, &in.Metadata, reasonInvalid, err.Error())
		}
		j.claims = append(j.claims, claims...)
		j.ingressStatus(in, err == nil)
	}
}

// ingressStatus is the addresses of the gateway, or none for what is not served.
func (j *job) ingressStatus(in *object.Ingress, served bool) {
	var want object.IngressStatus
	if served {
		for _, a := range j.Addresses {
			entry := object.IngressAddress{Hostname: a}
			if isIP(a) {
				entry = object.IngressAddress{IP: a}
			}
			want.LoadBalancer.Ingress = append(want.LoadBalancer.Ingress, entry)
		}
	}
	now := in.Status.LoadBalancer.Ingress
	// A merge patch takes away what is null, and nothing else.
	patch := fields{"loadBalancer": fields{"ingress": want.LoadBalancer.Ingress}}
	changed := !reflect.DeepEqual(now, want.LoadBalancer.Ingress) && len(now)+len(want.LoadBalancer.Ingress) > 0
	j.statuses = append(j.statuses, Status{KindIngress, &in.Metadata, patch, changed})
}

// ingress makes the routes of an Ingress.
func (j *job) ingress(in *object.Ingress) ([]draft, error) {
	policies, err := policiesOf(KindIngress, &in.Metadata)
	if err != nil {
		return nil, err
	}
	var drafts []draft
	add := func(rule, at int, host string, path fields, b *object.IngressBackend) error {
		route := maps.Clone(policies)
		route["match"] = fields{"path": path}
		to, err := j.ingressBackend(in.Metadata.Namespace, b)
		var missing *unresolved
		switch {
		case errors.As(err, &missing):
			// The path stays taken: what is meant for this service must not be shown to
			// another, whose route is less specific.
			j.refuse(KindIngress, &in.Metadata, missing.reason, fmt.Sprintf("rule %d: %s", rule, missing.message))
			route["respond"] = fields{"status": 503, "body": "There is no such service.\n"}
			delete(route, "timeout") // belongs to services
		case err != nil:
			return fmt.Errorf("rule %d: %w", rule, err)
		default:
			route["service"], route["preserve_host"] = to.name, true
		}
		d := draft{rule: rule, match: at, hosts: []string{host}, route: route}
		if err == nil {
			d.backends = []backend{to}
		}
		drafts = append(drafts, d)
		return nil
	}
	for i, rule := range in.Spec.Rules {
		if rule.HTTP == nil { // everything of the host goes to the default backend
			if in.Spec.DefaultBackend != nil {
				if err := add(i, 0, rule.Host, fields{"prefix": "/"}, in.Spec.DefaultBackend); err != nil {
					return nil, err
				}
			}
			continue
		}
		for k := range rule.HTTP.Paths {
			p := &rule.HTTP.Paths[k]
			path, err := ingressPath(p)
			if err != nil {
				return nil, fmt.Errorf("rule %d: %w", i, err)
			}
			if err := add(i, k, rule.Host, path, &p.Backend); err != nil {
				return nil, err
			}
		}
	}
	if in.Spec.DefaultBackend != nil {
		if err := add(len(in.Spec.Rules), 0, "", fields{"prefix": "/"}, in.Spec.DefaultBackend); err != nil {
			return nil, err
		}
	}
	return drafts, nil
}

// ingressPath is a path of the document. Prefixes match whole segments there, too, and
// a slash at their end means nothing; ImplementationSpecific is a prefix.
func ingressPath(p *object.IngressPath) (fields, error) {
	path := p.Path
	if path == "" {
		path = "/"
	}
	switch p.PathType {
	case pathExact:
		return fields{"exact": path}, nil
	case pathPrefix, pathImplementation, "":
		return fields{"prefix": path}, nil
	}
	return nil, fmt.Errorf("the pathType %.50q is not known", p.PathType)
}

func (j *job) ingressBackend(namespace string, b *object.IngressBackend) (backend, error) {
	if b.Service == nil {
		return backend{}, errors.New("the backend is not a service, and nothing else is supported")
	}
	return j.backendOf(namespace, b.Service.Name, b.Service.Port.Name, b.Service.Port.Number, 0)
}
