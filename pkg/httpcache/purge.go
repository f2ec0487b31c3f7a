package httpcache

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrPurge says that a purge does not name what is to go.
var ErrPurge = problem.Define(problem.Invalid, "cache.purge_invalid",
	"The purge must name one thing: a route, a path prefix with or without a host, or a surrogate key.")

// PurgeKind says what a purge goes by.
type PurgeKind string

// The kinds of purge.
const (
	PurgeRoute PurgeKind = "route" // name of the route
	PurgePath  PurgeKind = "path"  // prefix of the path, of one host or of all
	PurgeTag   PurgeKind = "key"   // surrogate key
)

// Purge takes away all answers of a kind that were asked for before it. The zero
// value is none.
type Purge struct {
	Kind  PurgeKind
	Value string // name, canonical path prefix, or surrogate key
	Host  string // canonical; of PurgePath only; empty for every host
}

// maxPurge bounds each text of a purge, in bytes.
const maxPurge = 1024

// Validate returns [ErrPurge] with the field that is wrong.
func (p Purge) Validate() error {
	switch p.Kind {
	case PurgeRoute, PurgePath, PurgeTag:
	default:
		return ErrPurge.WithField("kind", "must be route, path or key")
	}
	switch {
	case !plain(p.Value) || p.Value == "" || len(p.Value) > maxPurge:
		return ErrPurge.WithField(string(p.Kind), "must be printable text of 1 to %d bytes", maxPurge)
	case p.Kind == PurgePath && p.Value[0] != '/':
		return ErrPurge.WithField("path", "must begin with a slash")
	case p.Kind == PurgeTag && len(p.Value) > maxTag:
		return ErrPurge.WithField("key", "must be at most %d bytes", maxTag)
	case p.Host != "" && (p.Kind != PurgePath || len(p.Host) > 255 || !plain(p.Host) || strings.ContainsAny(p.Host, "/ ") || p.Host != strings.ToLower(p.Host)):
		return ErrPurge.WithField("host", "must be a host name in lower case without a port, and goes with a path only")
	}
	return nil
}

func plain(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// String is the form that [ParsePurge] reads: "route:orders",
// "path:api.example.com/users", "path:/users", "key:user-42".
func (p Purge) String() string { return string(p.Kind) + ":" + p.Host + p.Value }

// ParsePurge reads what String has written. Every error is an [ErrPurge].
func ParsePurge(s string) (Purge, error) {
	kind, value, _ := strings.Cut(s, ":")
	p := Purge{Kind: PurgeKind(kind), Value: value}
	if p.Kind == PurgePath {
		slash := strings.IndexByte(value, '/')
		if slash < 0 {
			return Purge{}, ErrPurge.WithField("path", "must begin with a slash")
		}
		p.Host, p.Value = value[:slash], value[slash:]
	}
	if err := p.Validate(); err != nil {
		return Purge{}, err
	}
	return p, nil
}

// Matches reports whether p takes o away. A path prefix ends at a slash: /users
// takes /users and /users/42, and not /users2.
func (p Purge) Matches(o *Object) bool {
	switch p.Kind {
	case PurgeRoute:
		return o.Route == p.Value
	case PurgeTag:
		return slices.Contains(o.Tags, p.Value)
	case PurgePath:
		if p.Host != "" && p.Host != o.Host || !strings.HasPrefix(o.Path, p.Value) {
			return false
		}
		return len(o.Path) == len(p.Value) || strings.HasSuffix(p.Value, "/") || o.Path[len(p.Value)] == '/'
	}
	return false
}

// PurgesKept is how many purges are remembered one by one. What was asked for
// before the oldest of them, and not looked at since, is taken away with it.
const PurgesKept = 4096

// Purges remembers the newest purges, numbered from 1. It is not safe for
// concurrent use.
type Purges struct {
	forgotten uint64  // numbers up to this one
	recent    []Purge // the following ones
}

// Last is the number of the newest purge.
func (l *Purges) Last() uint64 { return l.forgotten + uint64(len(l.recent)) }

// Add appends a purge.
func (l *Purges) Add(p Purge) {
	if len(l.recent) >= PurgesKept {
		half := len(l.recent) / 2
		l.forgotten += uint64(half)
		l.recent = slices.Clone(l.recent[half:])
	}
	l.recent = append(l.recent, p)
}

// Reset forgets everything up to the number last.
func (l *Purges) Reset(last uint64) { l.forgotten, l.recent = last, nil }

// Stands reports whether o, which was asked for after the purge numbered since, has
// survived all later ones.
func (l *Purges) Stands(o *Object, since uint64) bool {
	if since < l.forgotten || since > l.Last() {
		return false
	}
	for _, p := range l.recent[since-l.forgotten:] {
		if p.Matches(o) {
			return false
		}
	}
	return true
}
