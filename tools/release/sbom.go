package main

import (
	"os"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// sbom writes what the program of a target is made of, as CycloneDX in JSON: Go and each module,
// with version and checksum, as the program itself says.
func (r *release) sbom(t target) error {
	generator, err := bin.NewGenerator(r.program(t),
		bin.WithIncludeStdlib(true), bin.WithVersionOverride(r.version),
		bin.WithShortPURLS(true), // the long ones have the system that this program runs on, as if it were that of the target
		bin.WithLogger(zerolog.Nop()),
	)
	if err != nil {
		return err
	}
	bom, err := generator.Generate()
	if err != nil {
		return err
	}
	// Its serial number, which should be unique to a program, and its time are the only things that
	// another run would not give again.
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://github.com/musterhq/muster@"+r.revision+"/"+r.version+"/"+t.String())).URN()
	bom.Metadata.Timestamp = r.time.Format(time.RFC3339)
	f, err := os.OpenFile(r.name(t.String()+".cdx.json"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
