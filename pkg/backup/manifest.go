// Package backup writes everything that the program keeps in PostgreSQL into one file,
// and brings it back. PostgreSQL's own programs (pg_dump, pg_restore, psql) do the work;
// this package finds them, describes what they made in a manifest, and sees to it that a
// restore happens wholly or not at all.
//
// The file is a ZIP archive of two members: database.dump, in pg_dump's custom format,
// and manifest.json. It holds no master key, and not the gateway document where that is a
// file. Whoever has it can read e-mail addresses, the audit trail and hashes of
// passwords, and with the master key everything that is sealed.
package backup

import (
	"archive/zip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
)

// Members of the archive.
const (
	dumpMember     = "database.dump"
	manifestMember = "manifest.json"
)

// format is the version of the archive.
const format = 1

// maxManifest bounds what is read of a manifest.
const maxManifest = 64 << 10

// Manifest says what a backup holds.
type Manifest struct {
	Format        int       `json:"format"`
	Program       string    `json:"program"`        // version of the program that made it
	Schema        uint      `json:"schema"`         // version of the schema
	At            time.Time `json:"at"`             // when it was begun; the snapshot is of a moment later
	Server        string    `json:"server"`         // version of PostgreSQL
	Dumper        string    `json:"dumper"`         // version of pg_dump
	Database      string    `json:"database"`       // its name
	DatabaseBytes int64     `json:"database_bytes"` // its size on the server, with indexes
	DumpBytes     int64     `json:"dump_bytes"`     // size of the dump
	Digest        string    `json:"sha256"`         // of the dump
	KeyID         string    `json:"master_key_id"`  // of the current master key
	SealedUnder   []string  `json:"sealed_under"`   // ids of the master keys that rows are sealed under
	MAC           string    `json:"mac"`            // over the rest, under the master key
}

// macUse names the key of the MAC.
const macUse = "backup-manifest"

// sign fills the MAC in.
func (m *Manifest) sign(ring *seal.Keyring) error {
	m.KeyID = ring.ID()
	sum, err := m.sum(ring.Derive(macUse))
	m.MAC = hex.EncodeToString(sum)
	return err
}

func (m Manifest) sum(key []byte) ([]byte, error) {
	m.MAC = ""
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(text)
	return mac.Sum(nil), nil
}

// Errors that a caller may want to tell apart.
var (
	// ErrWrongKey: the backup was made under another master key.
	ErrWrongKey = errors.New("the backup was made under another master key")
	// ErrDamaged: the file is not what was written.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrNotEmpty: the database holds something.
	ErrNotEmpty = errors.New("the database is not empty")
	// ErrInUse: instances of the program are connected.
	ErrInUse = errors.New("instances of the program use the database")
	// ErrNewer: the schema of the backup is newer than the program.
	ErrNewer = errors.New("the backup is of a newer schema than this program knows")
)

// check compares the manifest with the ring.
func (m Manifest) check(ring *seal.Keyring) error {
	key, err := ring.DeriveUnder(m.KeyID, macUse)
	if err != nil {
		return fmt.Errorf("%w: it needs the key with id %q, and the one given has %q: set KEYWARDEN_MASTER_KEY to that key, or list it in KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED; nothing was changed",
			ErrWrongKey, m.KeyID, ring.ID())
	}
	want, err := m.sum(key)
	if err != nil {
		return err
	}
	got, err := hex.DecodeString(m.MAC)
	if err != nil || !hmac.Equal(want, got) {
		return fmt.Errorf("%w: its manifest was changed", ErrDamaged)
	}
	for _, id := range m.SealedUnder {
		if _, err := ring.DeriveUnder(id, macUse); err != nil {
			return fmt.Errorf("%w: some rows are sealed under the key with id %s; list it in KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED; nothing was changed", ErrWrongKey, id)
		}
	}
	return nil
}

// File is a backup that was opened. Nothing of it is believed before [File.Verify].
type File struct {
	Manifest Manifest
	archive  *zip.ReadCloser
	dump     *zip.File
	blocks   []block // of the dump, when it was verified
}

// Open reads the manifest of a backup. The caller closes the file.
func Open(name string) (_ *File, err error) {
	archive, err := zip.OpenReader(name)
	switch {
	case errors.Is(err, zip.ErrFormat), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: %s is no backup, or was cut short", ErrDamaged, name)
	case err != nil:
		return nil, err
	}
	f := &File{archive: archive}
	defer func() {
		if err != nil {
			err = errors.Join(err, archive.Close())
		}
	}()
	for _, member := range archive.File {
		switch member.Name {
		case dumpMember:
			f.dump = member
		case manifestMember:
			if f.Manifest, err = readManifest(member); err != nil {
				return nil, err
			}
		}
	}
	if f.dump == nil || f.Manifest.Format == 0 {
		return nil, fmt.Errorf("%w: %s holds no dump or no manifest", ErrDamaged, name)
	}
	return f, f.Manifest.known()
}

// known refuses formats of later programs. Nothing was verified yet.
func (m Manifest) known() error {
	if m.Format != format {
		return fmt.Errorf("the backup has format %d, and this program knows %d; use the version %q that made it", m.Format, format, m.Program)
	}
	return nil
}

func readManifest(member *zip.File) (m Manifest, err error) {
	r, err := member.Open()
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer func() { _ = r.Close() }() // it is only read
	text, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return m, fmt.Errorf("%w: its manifest cannot be read: %w", ErrDamaged, err)
	}
	return m, nil
}

// Close closes the file.
func (f *File) Close() error { return f.archive.Close() }

// Verify reads the whole dump and compares it with the manifest, and the manifest with
// the ring.
func (f *File) Verify(ctx context.Context, ring *seal.Keyring, progress Progress) error {
	if err := f.Manifest.check(ring); err != nil {
		return err
	}
	if f.dump.Method != zip.Store || f.dump.UncompressedSize64 != uint64(max(f.Manifest.DumpBytes, 0)) {
		return errOtherDump // also what would grow without end
	}
	r, err := f.dump.Open()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer func() { _ = r.Close() }() // it is only read
	digest := sha256.New()
	blocks, err := blocksOf(io.TeeReader(&meter{ctx: ctx, r: r, total: f.Manifest.DumpBytes, progress: progress}, digest))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if hex.EncodeToString(digest.Sum(nil)) != f.Manifest.Digest {
		return errOtherDump
	}
	f.blocks = blocks
	return nil
}

var errOtherDump = fmt.Errorf("%w: the dump is not the one that was written", ErrDamaged)

// Progress is told, now and then, how many bytes of how many are done; total is 0 where
// that is not known.
type Progress func(done, total int64)

// meter reports what is read through it, and ends with its context.
type meter struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	progress    Progress
}

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.done += int64(n)
	if m.progress != nil && n > 0 {
		m.progress(m.done, m.total)
	}
	return n, err
}
