// Command mkimage writes the image of a program that is already built, for docker load:
//
//	go run ./mkimage -program bin/muster -arch amd64 -o muster.tar
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/musterhq/muster/tools/release/image"
)

func main() {
	o := image.Options{Time: time.Now().UTC().Truncate(time.Second), Labels: map[string]string{}}
	flag.StringVar(&o.Program, "program", "", "path of the program, a static one for Linux")
	flag.StringVar(&o.Arch, "arch", "amd64", "its architecture")
	flag.StringVar(&o.Name, "name", "muster", "name, and a tag if not latest, under which an engine loads the image")
	output := flag.String("o", "", "path of the archive")
	flag.Func("label", "a label, as `NAME=VALUE`; can be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q: not NAME=VALUE", s)
		}
		o.Labels[name] = value
		return nil
	})
	flag.Parse()
	if o.Program == "" || *output == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*output, o); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func write(path string, o image.Options) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := image.Write(f, o); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
