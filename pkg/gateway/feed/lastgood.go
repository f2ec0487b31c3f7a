package feed

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
)

// lastGood is the file that holds the last document that was applied. Its content
// is authenticated under the master key: it decides who gets in where, and a file
// of another installation, or one that is cut short, must not.
type lastGood struct {
	path string // empty: nothing is kept
	ring *seal.Keyring
}

// lastGoodFile is the content of the file.
type lastGoodFile struct {
	Revision int64           `json:"revision"`
	SavedAt  time.Time       `json:"saved_at"` // for people
	KeyID    string          `json:"key_id"`   // of the master key
	MAC      string          `json:"mac"`      // HMAC-SHA256 of revision and document, in hexadecimal
	Document json.RawMessage `json:"document"` // canonical
}

// maxLastGood bounds what is read: a document and a little more.
const maxLastGood = spec.MaxBytes + 4<<10

// lastGoodUse names the derived key.
const lastGoodUse = "gateway-last-good"

var errForged = errors.New("the file is damaged, or was not written under this master key")

func (l lastGood) read() (number int64, doc spec.Document, err error) {
	if l.path == "" {
		return 0, doc, fs.ErrNotExist
	}
	file, err := os.Open(l.path)
	if err != nil {
		return 0, doc, err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, maxLastGood))
	if err != nil {
		return 0, doc, err
	}
	var content lastGoodFile
	if err := json.Unmarshal(data, &content); err != nil {
		return 0, doc, fmt.Errorf("%s: %w: %w", l.path, errForged, err)
	}
	key, err := l.ring.DeriveUnder(content.KeyID, lastGoodUse)
	if err != nil {
		return 0, doc, fmt.Errorf("%s: %w: %w", l.path, errForged, err)
	}
	mac, err := hex.DecodeString(content.MAC)
	if err != nil || !hmac.Equal(mac, sum(key, content.Revision, content.Document)) {
		return 0, doc, fmt.Errorf("%s: %w", l.path, errForged)
	}
	doc, err = revision.Revision{Number: content.Revision, Document: content.Document}.Parse()
	return content.Revision, doc, err
}

// write puts the document in the place of the one before, so that a reader finds
// one of them whole, also after a crash of the machine.
func (l lastGood) write(number int64, document []byte) error {
	if l.path == "" {
		return nil
	}
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false) // the document is to stay as it is, byte by byte
	err := enc.Encode(lastGoodFile{
		Revision: number, SavedAt: time.Now().UTC().Truncate(time.Second), KeyID: l.ring.ID(),
		MAC: hex.EncodeToString(sum(l.ring.Derive(lastGoodUse), number, document)), Document: document,
	})
	if err != nil {
		return err
	}
	dir := filepath.Dir(l.path)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's user must pass; the files in it are private
		return err
	}
	l.sweep()
	tmp, err := os.CreateTemp(dir, filepath.Base(l.path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when all went well
	_, err = tmp.Write(data.Bytes())
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), l.path); err != nil {
		return err
	}
	return syncFolder(dir)
}

// leftover is the age at which a temporary file belongs to a process that was
// killed, and not to one that is writing.
const leftover = time.Hour

// sweep removes what killed processes left behind.
func (l lastGood) sweep() {
	names, _ := filepath.Glob(l.path + ".*") // an error is a pattern that finds nothing
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > leftover {
			_ = os.Remove(name)
		}
	}
}

// syncFolder makes a rename last.
func syncFolder(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// sum authenticates a document and its number. The number has a fixed end, so no
// two pairs give the same text.
func sum(key []byte, number int64, document []byte) []byte {
	m := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(m, "%d\n", number) // a hash takes everything
	m.Write(document)
	return m.Sum(nil)
}
