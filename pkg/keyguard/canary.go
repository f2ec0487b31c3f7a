package keyguard

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/throttle"
)

const (
	maxAlarms    = 256 // that wait to be written
	maxPath      = 256 // bytes of a path that is kept
	alarmTimeout = 5 * time.Second
)

// Alarm is one use of a canary key.
type Alarm struct {
	KeyID  string
	Client netip.Addr
	Path   string // as it was asked for, without credentials, at most 256 bytes; empty when not known
	At     time.Time
}

// AlarmOptions configure [Alarms]. All fields are required.
type AlarmOptions struct {
	Record func(ctx context.Context, e audit.Entry) error // into the audit log
	Raise  func(Alarm)                                    // metrics and alerts hear of every alarm that is recorded
	Rate   *throttle.Limiter                              // recorded alarms per key and address
	Now    func() time.Time
	Logger *slog.Logger
}

// Alarms tells of uses of canary keys. Noting a use never waits for anything: who
// uses such a key must not be able to tell by the time. It is safe for concurrent
// use.
type Alarms struct {
	opts    AlarmOptions
	waiting chan pendingAlarm
	uses    atomic.Int64
	dropped atomic.Int64
}

type pendingAlarm struct {
	alarm Alarm
	entry audit.Entry
}

// NewAlarms makes the alarms; Run writes them.
func NewAlarms(o AlarmOptions) *Alarms {
	return &Alarms{opts: o, waiting: make(chan pendingAlarm, maxAlarms)}
}

// Used notes a use; it is what apikey.VerifierOptions.Canary wants. What exceeds the
// queue is counted and not written.
func (a *Alarms) Used(ctx context.Context, keyID string, client netip.Addr) {
	a.uses.Add(1)
	// A stranger chooses the path, and the audit log keeps it for good: the secret part
	// of a key that stands there must not.
	path := clip(httpedge.WithoutCredentials(reqctx.From(ctx).Path))
	entry := audit.New(ctx, audit.CanaryUsed, "apikey", keyID).Failed().With("path", path)
	select {
	case a.waiting <- pendingAlarm{Alarm{KeyID: keyID, Client: client, Path: path, At: a.opts.Now().UTC()}, entry}:
	default:
		a.dropped.Add(1)
	}
}

// Uses is how often canary keys were used, and Dropped how many of these uses were
// not written: over the rate, or more than could wait.
func (a *Alarms) Uses() int64 { return a.uses.Load() }

// Dropped is described at [Alarms.Uses].
func (a *Alarms) Dropped() int64 { return a.dropped.Load() }

// Run writes alarms until ctx ends, and those that wait then.
func (a *Alarms) Run(ctx context.Context) error {
	for {
		select {
		case p := <-a.waiting:
			a.write(ctx, p)
		case <-ctx.Done():
			for {
				select {
				case p := <-a.waiting:
					a.write(ctx, p)
				default:
					return nil
				}
			}
		}
	}
}

// write records one alarm. It is raised even where it cannot be recorded: an
// attacker may be why.
func (a *Alarms) write(ctx context.Context, p pendingAlarm) {
	if a.opts.Rate.Take(p.alarm.KeyID+" "+throttle.Address(p.alarm.Client)) > 0 {
		a.dropped.Add(1)
		return
	}
	a.opts.Raise(p.alarm)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), alarmTimeout)
	defer cancel()
	if err := a.opts.Record(ctx, p.entry); err != nil {
		a.opts.Logger.ErrorContext(ctx, "the use of a canary key could not be audited",
			"key_id", p.alarm.KeyID, "client", p.alarm.Client.String(), "error", err)
	}
}

// clip makes of a path what can be kept: valid UTF-8 without NUL, which PostgreSQL
// does not take, of bounded length.
func clip(path string) string {
	if len(path) > maxPath {
		path = path[:maxPath]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(path, "\x00", ""), "")
}
