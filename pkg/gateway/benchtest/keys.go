package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/seal"
)

// Shape of an API key: prefix, public id and secret, checksum. It follows package
// apikey: a key of another shape is refused, which ends the measurement.
const (
	base62        = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	keyBeginning  = "kw_live_bench"
	idDigits      = 7 // of the public id, after "bench"
	checksumWidth = 6
)

// appendKey appends the text of key number i, so that nobody has to remember a
// million of them.
func appendKey(to []byte, i int64) []byte {
	begin := len(to)
	var digits [20]byte
	seed := sha256.Sum256(strconv.AppendInt(digits[:0], i, 10))
	to = appendBase62(append(to, keyBeginning...), i, idDigits)
	for _, v := range seed {
		to = append(to, base62[v%62])
	}
	return appendBase62(to, int64(crc32.ChecksumIEEE(to[begin:])), checksumWidth)
}

// appendBase62 appends the last digits of n.
func appendBase62(to []byte, n int64, width int) []byte {
	begin := len(to)
	for range width {
		to = append(to, '0')
	}
	for at := len(to) - 1; at >= begin; at-- {
		to[at] = base62[n%62]
		n /= 62
	}
	return to
}

// keyOwners have the keys of the table among them.
const keyOwners = 10_000

// fillKeys writes n keys into the database of a gateway that has made its tables.
func (t *site) fillKeys(ctx context.Context, database string, n int64) error {
	ring, err := seal.ParseKeyring(t.master)
	if err != nil {
		return err
	}
	in, out := io.Pipe()
	go func() {
		buffered := bufio.NewWriterSize(out, 1<<16)
		writeKeys(buffered, n, ring.IDs()[0], hmac.New(sha256.New, ring.Derive("api-key-verifier")))
		_ = out.CloseWithError(buffered.Flush())
	}()
	defer func() { _ = in.Close() }()
	return t.databases.fill(ctx, database, in)
}

// writeKeys writes the script for psql. Errors show when out is flushed.
func writeKeys(out *bufio.Writer, n int64, pepper string, mac hash.Hash) {
	now := time.Now().UTC().Format(time.RFC3339)
	owners := min(n, keyOwners)
	id := func(table byte, i int64) uuid.UUID {
		sum := sha256.Sum256(strconv.AppendInt([]byte{table}, i, 10))
		return uuid.UUID(sum[:16])
	}
	_, _ = out.WriteString("BEGIN;\nCOPY users (id, email, role, password_hash, created_at, updated_at) FROM STDIN;\n")
	for i := range owners {
		_, _ = fmt.Fprintf(out, "%s\tkeys%d@example.com\tuser\tnone\t%s\t%s\n", id('u', i), i, now, now)
	}
	_, _ = out.WriteString("\\.\nCOPY api_keys (id, public_id, user_id, name, env, prefix, last_four, created_at, updated_at) FROM STDIN;\n")
	var key []byte
	for i := range n {
		key = appendKey(key[:0], i)
		_, _ = fmt.Fprintf(out, "%s\t%s\t%s\tbench\tlive\t%s\t%s\t%s\t%s\n", id('k', i), key[8:20], id('u', i%owners), key[:20], key[len(key)-4:], now, now)
	}
	_, _ = out.WriteString("\\.\nCOPY api_key_secrets (id, key_id, bcrypt, verifier, pepper_id, created_at) FROM STDIN;\n")
	for i := range n {
		key = appendKey(key[:0], i)
		mac.Reset()
		_, _ = mac.Write(key)
		// A hash of nothing: the verifier spares bcrypt.
		_, _ = fmt.Fprintf(out, "%s\t%s\t$2a$10$abcdefghijklmnopqrstuuJvNOIxxH9dKHd1kFKDF0Z5vWzu0mFc6\t\\\\x%x\t%s\t%s\n",
			id('s', i), id('k', i), mac.Sum(nil), pepper, now)
	}
	_, _ = out.WriteString("\\.\nCOMMIT;\nANALYZE users, api_keys, api_key_secrets;\n")
}
