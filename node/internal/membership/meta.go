package membership

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"
)

// metaVersion is that of the layout of meta. It rises only when a reader of the
// old one would be misled; new fields alone do not raise it.
const metaVersion = 1

// meta is what a member gossips about itself. See the package comment.
type meta struct {
	Version    int      `json:"v"`
	InstanceID string   `json:"i"`
	Claim      int64    `json:"c"`
	ClusterID  string   `json:"k,omitempty"`
	Single     bool     `json:"s,omitempty"`
	Details    *Details `json:"d,omitempty"`
	Digest     string   `json:"h,omitempty"`
}

// encode returns the JSON of m, with the details if they fit and else with their
// digest.
func (m meta) encode(d encodedDetails) []byte {
	m.Version = metaVersion
	if !d.Equal(Details{}) {
		m.Details = &d.Details
	}
	b, _ := json.Marshal(m) // strings and numbers: it cannot fail
	if len(b) <= memberlist.MetaMaxSize {
		return b
	}
	m.Details, m.Digest = nil, d.digest
	b, _ = json.Marshal(m)
	return b
}

var (
	errMetaLayout  = errors.New("metadata is not of this protocol")
	errMetaVersion = errors.New("metadata has another version")
)

// decodeMeta reads what encode wrote.
func decodeMeta(b []byte) (meta, error) {
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return meta{}, fmt.Errorf("%w: %w", errMetaLayout, err)
	}
	if m.Version != metaVersion {
		return meta{}, fmt.Errorf("%w: %d", errMetaVersion, m.Version)
	}
	if len(m.InstanceID) < shortInstance || validateID(m.InstanceID) != nil || validateID(m.ClusterID) != nil {
		return meta{}, errMetaLayout
	}
	return m, nil
}

// encodedDetails are details with their JSON and its digest.
type encodedDetails struct {
	Details
	json   []byte
	digest string
}

// encodeDetails checks d, copies it and encodes it.
func encodeDetails(d Details) (encodedDetails, error) {
	for _, s := range d.texts() {
		if !utf8.ValidString(s) {
			return encodedDetails{}, fmt.Errorf("membership: details: %q: want valid UTF-8", s)
		}
	}
	d = d.clone()
	b, err := json.Marshal(d)
	if err != nil {
		return encodedDetails{}, fmt.Errorf("membership: details: %w", err)
	}
	if len(b) > MaxDetails {
		return encodedDetails{}, fmt.Errorf("membership: details (zone, tags, meta, app_addrs and version) take %d bytes; want at most %d", len(b), MaxDetails)
	}
	return encodedDetails{d, b, digest(b)}, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
