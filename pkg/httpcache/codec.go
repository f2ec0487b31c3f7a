package httpcache

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// encodingVersion begins every encoded object: what another version has written is
// not read.
const encodingVersion = 1

// encodedHead is the version and the length of the JSON that follows.
const encodedHead = 1 + 4

var errEncoding = errors.New("httpcache: not an encoded object")

// stored is an object with the mark that it was kept under.
type stored struct {
	Mark   Mark
	Object Object
}

// Encode is the form of an object for stores that keep bytes: version, length, the
// object without its body as JSON, the body.
func Encode(o *Object, since Mark) ([]byte, error) {
	for _, values := range o.Header {
		for _, v := range values {
			if !utf8.ValidString(v) { // JSON would change it
				return nil, errors.New("encoding an object: a field is not UTF-8")
			}
		}
	}
	s := stored{Mark: since, Object: *o}
	s.Object.Body = nil
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding an object: %w", err)
	}
	b := make([]byte, encodedHead, encodedHead+len(text)+len(o.Body))
	b[0] = encodingVersion
	binary.BigEndian.PutUint32(b[1:], uint32(len(text))) // a few kilobytes
	return append(append(b, text...), o.Body...), nil
}

// Decode reads what Encode has written. The body of the object is a part of b.
func Decode(b []byte) (*Object, Mark, error) {
	if len(b) < encodedHead || b[0] != encodingVersion {
		return nil, Mark{}, errEncoding
	}
	length := uint64(binary.BigEndian.Uint32(b[1:]))
	if length > uint64(len(b)-encodedHead) {
		return nil, Mark{}, errEncoding
	}
	var s stored
	if err := json.Unmarshal(b[encodedHead:encodedHead+length], &s); err != nil {
		return nil, Mark{}, errEncoding
	}
	o := &s.Object
	o.Body = b[encodedHead+length:]
	if o.Status != 0 && !cacheable(o.Status) || len(o.Vary) > maxVary {
		return nil, Mark{}, errEncoding
	}
	return o, s.Mark, nil
}
