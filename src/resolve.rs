//! From a scale set, its image and its user data to a model.

use crate::hypervisor::seed::check_template;
use crate::model::{Image, Model, UserData};
use crate::scaleset::ScaleSet;

/// Why a model can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The disk is smaller than the image.
    #[error("instance.disk is {disk}, but the image needs {image}")]
    DiskTooSmall {
        /// Asked for.
        disk: crate::units::Bytes,
        /// Needed.
        image: crate::units::Bytes,
    },
    /// The user data's template is wrong.
    #[error("the user data {file} can't be rendered: {why}")]
    Template {
        /// The file.
        file: String,
        /// In which line, and what.
        why: String,
    },
}

/// The model that `set` describes with this image and user data.
///
/// # Errors
/// See [`ResolveError`].
pub fn model(set: &ScaleSet, image: &Image, user_data: Option<String>) -> Result<Model, ResolveError> {
    let instance = &set.instance;
    let disk = instance.disk.unwrap_or(image.virtual_size);
    if disk < image.virtual_size {
        return Err(ResolveError::DiskTooSmall {
            disk,
            image: image.virtual_size,
        });
    }
    let user_data = user_data.map(|text| self::user_data(set, text)).transpose()?;
    Ok(Model {
        image: image.clone(),
        vcpus: instance.vcpus,
        memory: instance.memory,
        disk,
        clone: instance.clone,
        cpu: instance.cpu.clone(),
        virtualization: instance.virtualization,
        firmware: instance.firmware,
        user_data,
        networks: instance.networks.clone(),
        data_disks: instance.data_disks.clone(),
    })
}

/// Most hosts for which a template is tried.
const MOST_TRIED: usize = 1000;

/// The user data that `set` describes, of which `template` is the text. It is tried for every host of the set, so that a
/// host is never to blame for what the definition says; for one only if it names no place.
///
/// # Errors
/// [`ResolveError::Template`].
pub fn user_data(set: &ScaleSet, template: String) -> Result<UserData, ResolveError> {
    let user_data = UserData {
        template,
        vars: set.instance.vars.clone(),
    };
    let names_a_place = ["host", "fault_domain"]
        .iter()
        .any(|name| user_data.template.contains(name));
    let tried = if names_a_place { MOST_TRIED } else { 1 };
    for (domain, host) in set.hosts().take(tried) {
        check_template(&user_data, &set.name, domain, &host.name).map_err(|why| {
            let file = set.instance.user_data.as_deref();
            ResolveError::Template {
                file: file.map_or_else(String::new, |f| f.display().to_string()),
                why,
            }
        })?;
    }
    Ok(user_data)
}
