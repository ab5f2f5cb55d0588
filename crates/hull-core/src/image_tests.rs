//! What is refused and what is decided about images, as tables.

use hull_types::{digest::Digest, image::ImageFormat};

use super::*;
use crate::{
    testing::{Seeded, call, image, kernel, name, project},
    vm::testing::vm,
};

fn request() -> ImageCreate {
    ImageCreate {
        name: name("debian-12"),
        description: String::new(),
        metadata: Default::default(),
        kind: ImageKind::Disk,
        format: None,
        checksum: None,
        source_url: None,
        visibility: Visibility::Private,
        min_disk: Bytes::ZERO,
        min_memory: Bytes::ZERO,
        direct_boot: None,
    }
}

fn make(request: &ImageCreate, direct: Option<Kernel<'_>>) -> Result<Changes> {
    create(&project(), Usage::default(), request, direct, false, &mut call(&mut Seeded::new(1)))
}

fn put(changes: &Changes) -> Option<Image> {
    changes.writes.iter().find_map(|w| if let Write::PutImage(image) = w { Some((**image).clone()) } else { None })
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    let with = |bend: fn(&mut ImageCreate)| {
        let mut request = request();
        bend(&mut request);
        make(&request, None).map(|_| ()).map_err(|error| error.field.unwrap_or_default())
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(with(|r| r.source_url = Some("https://example.org/a.qcow2".into())), Ok(()));
    assert_eq!(with(|r| r.source_url = Some("file:///etc/shadow".into())), Err("/source_url".into()));
    assert_eq!(with(|r| r.source_url = Some("http://a b".into())), Err("/source_url".into()));
    assert_eq!(with(|r| r.visibility = Visibility::Public), Err("/visibility".into()));
    assert_eq!(with(|r| r.min_disk = Bytes(u64::MAX)), Err("/min_disk".into()));
    assert_eq!(with(|r| r.min_memory = Bytes(u64::MAX)), Err("/min_memory".into()));
    let (disk, kernel) = (image("x"), kernel());
    let direct = |kernel| Some(Kernel { kernel, initrd: None, cmdline: "quiet" });
    assert!(make(&request(), direct(&kernel)).is_ok());
    assert_eq!(make(&request(), direct(&disk)).unwrap_err().field.as_deref(), Some("/direct_boot/kernel"));
    let odd = ImageCreate { kind: ImageKind::Kernel, ..request() };
    assert_eq!(make(&odd, direct(&kernel)).unwrap_err().field.as_deref(), Some("/direct_boot"));
}

#[test]
fn an_import_goes_through_its_phases_and_ends_once() {
    let mut fresh = Seeded::new(1);
    let call = &mut call(&mut fresh);
    let queued = put(&make(&request(), None).unwrap()).unwrap();
    assert_eq!(queued.phase, ImagePhase::Queued);
    let importing = put(&begin(&queued, call).unwrap()).unwrap();
    assert!(begin(&importing, call).unwrap_err().detail.contains("already"));
    let half = ImageProgress { done: Bytes(5), total: Some(Bytes(10)) };
    assert_eq!(put(&progress(&importing, half.clone(), call)).unwrap().progress, Some(half.clone()));
    let content = ImageContent {
        digest: Digest([1; 32]),
        format: ImageFormat::Raw,
        size: Bytes(10),
        virtual_size: Bytes(10),
        source_digest: Digest([1; 32]),
    };
    let done = put(&ready(&importing, content.clone(), call)).unwrap();
    assert_eq!((done.phase, done.progress.clone()), (ImagePhase::Ready, None));
    assert!(begin(&done, call).unwrap_err().detail.contains("never change"));
    let broken = put(&failed(&importing, "the checksum does not match", call)).unwrap();
    assert!(begin(&broken, call).unwrap_err().detail.contains("create it again"));
    for settled in [&done, &broken] {
        assert!(progress(settled, half.clone(), call).is_empty());
        assert!(failed(settled, "late", call).is_empty());
        assert!(ready(settled, content.clone(), call).is_empty());
    }
}

#[test]
fn a_used_image_stays_and_names_its_users() {
    let mut fresh = Seeded::new(1);
    let call = &mut call(&mut fresh);
    let (image, web) = (image("debian-12"), vm());
    assert!(used_by(&image, &web));
    let detail = delete(&image, &[&web], &[], call).unwrap_err().detail;
    assert_eq!(detail, "image debian-12 is used by web; delete them first, or hide the image");
    let mut foreign = vm();
    foreign.meta.project = hull_types::id::ProjectId(uuid::Uuid::from_u128(9));
    let detail = delete(&image, &[&foreign], &[], call).unwrap_err().detail;
    assert!(detail.contains("1 VMs of other projects") && !detail.contains("web"), "{detail}");
    let detail = delete(&image, &[&web, &foreign], &[], call).unwrap_err().detail;
    assert!(detail.contains("web and 1 more"), "{detail}");
    let mut micro = vm();
    micro.boot.image = None;
    micro.boot.kernel =
        Some(DirectBoot { kernel: kernel().content.unwrap().digest, initrd: None, cmdline: String::new() });
    assert!(used_by(&kernel(), &micro) && !used_by(&image, &micro));
}

#[test]
fn deletion_marks_then_removes_or_restores() {
    let mut fresh = Seeded::new(1);
    let call = &mut call(&mut fresh);
    let image = image("debian-12");
    let marked = put(&delete(&image, &[], &[], call).unwrap()).unwrap();
    assert_eq!(marked.phase, ImagePhase::Deleting);
    assert!(delete(&marked, &[], &[], call).unwrap().is_empty(), "asking again changes nothing");
    assert!(update(&marked, &ImageUpdate::default(), None, false, call).is_err());
    let one = Usage::one(QuotaKind::Images);
    let gone = purge(&marked, &[], one, call);
    assert!(gone.writes.contains(&Write::DeleteImage(image.id)));
    assert!(gone.writes.contains(&Write::PutUsage { project: image.meta.project, usage: Usage::default() }));
    let kept = purge(&marked, &[&vm()], one, call);
    assert_eq!(put(&kept).unwrap().phase, ImagePhase::Ready, "a VM slipped in before the mark");
    assert!(purge(&image, &[], one, call).is_empty(), "only what is marked goes");
}
