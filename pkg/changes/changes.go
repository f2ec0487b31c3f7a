// Package changes makes every replica notice what happened on another one: a
// revoked key, an ended session, a changed user. Each change of the platform
// appends its events to a log in the same transaction; every replica follows
// the log, woken by a notification and, as a safety net, by polling, and says
// how far it has come. The log itself is the store's business.
package changes

import (
	"context"
	"time"

	"github.com/keywarden/keywarden/pkg/audit"
)

// Kind says what kind of thing changed.
type Kind string

// The kinds of event, each with what Subject holds.
const (
	KeyChanged         Kind = "key"          // public id of the API key
	SessionEnded       Kind = "session"      // id of the session
	UserSessionsEnded  Kind = "sessions"     // id of the user whose sessions ended
	UserChanged        Kind = "user"         // id of the user whose role or standing changed
	SigningKeysChanged Kind = "signing_keys" // empty
	GatewayChanged     Kind = "gateway"      // number of the new revision of the gateway document
	QuotaChanged       Kind = "quota"        // id of the quota account that was topped up or reset
	CachePurged        Kind = "cache"        // what was purged, as text
	SecretChanged      Kind = "secret"       // environment and name of the secret, with a slash between them
	AppChanged         Kind = "app"          // id of the app that changed, or one of whose subscriptions did
	ProductChanged     Kind = "product"      // id of the product that changed, or one of whose plans did
)

// Event is one entry of the log.
type Event struct {
	Epoch   int64 // position in the log; commits happen in this order
	Kind    Kind
	Subject string

	// Age is how long ago the change was made, by the clock of the log, when the log was
	// read; zero where the event was not read from the log.
	Age time.Duration
}

// Change is what a mutation hands to the store beside its data: the audit entry
// and the event that are written in the same transaction.
type Change struct {
	Audit audit.Entry
	Event Event // Epoch is assigned by the store; a zero Kind means no event
}

// Log is the stored log. Epochs are visible in order: a reader that sees epoch n
// sees every smaller one, because writers are serialised until they commit.
type Log interface {
	// ChangesSince returns at most limit events after epoch, oldest first. gap
	// says that some after epoch are gone, because they were pruned or because
	// the log ends before epoch: the database was restored from an older copy.
	ChangesSince(ctx context.Context, epoch int64, limit int) (events []Event, gap bool, err error)
	// ChangeHead is the newest epoch.
	ChangeHead(ctx context.Context) (int64, error)
	// ListenChanges calls wake at each notification, and once when listening
	// has begun, until ctx ends or the connection breaks.
	ListenChanges(ctx context.Context, wake func()) error
}

// Replica is one running process, as the registry knows it.
type Replica struct {
	ID    string
	Acked int64     // it has applied every event up to this epoch
	Seen  time.Time // its last heartbeat
}

// Registry knows the running replicas.
type Registry interface {
	// Beat records that replica id lives and how far it has come.
	Beat(ctx context.Context, id string, acked int64) error
	// Leave removes the replica.
	Leave(ctx context.Context, id string) error
	// Replicas returns those seen within the given time.
	Replicas(ctx context.Context, within time.Duration) ([]Replica, error)
}
