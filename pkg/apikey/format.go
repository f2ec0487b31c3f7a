package apikey

import (
	"crypto/rand"
	"hash/crc32"
	"regexp"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/seal"
)

// The form of a key: prefix "_" environment "_" id secret check, where the last
// three are base62 without a separator. The check is the CRC-32 (IEEE) of
// everything before it, so that a mistyped or invented key is refused without
// asking anybody, and a scanner can tell a real key from a look-alike.
const (
	idLength     = 12
	secretLength = 32 // 190 bits
	checkLength  = 6
	bodyLength   = idLength + secretLength + checkLength

	alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// Environment says what a key is for. It is a label that its holder chooses.
type Environment string

// The environments.
const (
	Live Environment = "live"
	Test Environment = "test"
)

// Valid reports whether e is one of the environments.
func (e Environment) Valid() bool { return e == Live || e == Test }

// newID makes a public key id: 71 random bits.
func newID() string { return randomBase62(idLength) }

// newKey makes a key with a fresh secret for the id.
func newKey(prefix string, env Environment, id string) seal.Secret {
	head := prefix + "_" + string(env) + "_" + id + randomBase62(secretLength)
	var check [checkLength]byte
	putCheck(check[:], crc32.ChecksumIEEE([]byte(head)))
	return seal.NewSecret(head + string(check[:]))
}

// randomBase62 makes n uniformly distributed characters.
func randomBase62(n int) string {
	const unbiased = 256 - 256%len(alphabet) // larger bytes would favour the first letters
	out := make([]byte, 0, n)
	var b [64]byte
	for {
		_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
		for _, v := range b {
			if int(v) >= unbiased {
				continue
			}
			out = append(out, alphabet[int(v)%len(alphabet)])
			if len(out) == n {
				return string(out)
			}
		}
	}
}

// putCheck writes sum in base62, left-padded with zeros; 62^6 exceeds 2^32.
func putCheck(dst []byte, sum uint32) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = alphabet[sum%uint32(len(alphabet))]
		sum /= uint32(len(alphabet))
	}
}

// crcTable is the table of CRC-32 (IEEE); looking it up once keeps parse free of
// allocations.
var crcTable = crc32.IEEETable

// parse returns the public id of a well-formed key with the right check. It
// allocates nothing and asks nobody.
func parse(prefix, key string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok || len(rest) != len("_live_")+bodyLength {
		return "", false
	}
	if env := rest[:len("_live_")]; env != "_live_" && env != "_test_" {
		return "", false
	}
	body := rest[len("_live_"):]
	for i := range len(body) {
		if !base62(body[i]) {
			return "", false
		}
	}
	var want [checkLength]byte
	putCheck(want[:], checksum(key[:len(key)-checkLength]))
	if string(want[:]) != body[bodyLength-checkLength:] {
		return "", false
	}
	return body[:idLength], true
}

// Pattern is a regular expression (RE2, PCRE) for what has the form of a key with the
// prefix. It says nothing about what stands before and after, nor about the check.
func Pattern(prefix string) string {
	return regexp.QuoteMeta(prefix) + "_(?:live|test)_[0-9A-Za-z]{" + strconv.Itoa(bodyLength) + "}"
}

// checksum is CRC-32 (IEEE) of s, without a copy of s.
func checksum(s string) uint32 {
	crc := ^uint32(0)
	for i := range len(s) {
		crc = crcTable[byte(crc)^s[i]] ^ (crc >> 8)
	}
	return ^crc
}

func base62(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z'
}
