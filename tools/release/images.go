package main

import (
	"os"

	"github.com/musterhq/muster/tools/release/image"
)

// image writes the image of a target, which is one of Linux.
func (r *release) image(t target) error {
	f, err := os.OpenFile(r.name(t.String()+".oci.tar"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = image.Write(f, image.Options{
		Name: "muster:" + r.number(), Arch: t.arch, Program: r.program(t), Licence: r.copyright(),
		Version: r.version, Revision: r.revision, Time: r.time,
	})
	if err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
